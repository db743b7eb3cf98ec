//! How the content of a range travels and is stored.

/// Encoding of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// The bytes themselves.
    Raw,
    /// One zstd frame of them.
    Zstd,
    /// All zeroes: no payload.
    Zero,
}

impl Encoding {
    /// Number on the wire and in files.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::Zero => 2,
        }
    }

    /// `None` for numbers that mean nothing.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 => Some(Self::Zero),
            _ => None,
        }
    }
}
