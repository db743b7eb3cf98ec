//! A cursor over bytes that never reads past their end, and its counterpart for writing.

use super::FormatError;

/// Reads fixed-width little-endian fields of the part of a file called `part`.
#[derive(Debug)]
pub struct Cursor<'a> {
    part: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[must_use]
    pub fn new(part: &'static str, bytes: &'a [u8]) -> Self {
        Self { part, rest: bytes }
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(FormatError::Short {
                part: self.part,
                need: len as u64,
                have: self.rest.len() as u64,
            });
        };
        self.rest = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, FormatError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, FormatError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub fn u128(&mut self) -> Result<u128, FormatError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A text behind its length as u16, at most `limit` bytes long.
    pub fn text(&mut self, field: &'static str, limit: u16) -> Result<&'a str, FormatError> {
        let len = self.u16()?;
        if len > limit {
            return Err(FormatError::Limit {
                part: self.part,
                field,
                value: u64::from(len),
                limit: u64::from(limit),
            });
        }
        let bytes = self.take(usize::from(len))?;
        std::str::from_utf8(bytes).map_err(|_| FormatError::Text { part: self.part, field })
    }

    /// What is left must be zero, so that no bit of a file is without meaning.
    pub fn rest_is_zero(self) -> Result<(), FormatError> {
        match self.rest.iter().find(|b| **b != 0) {
            None => Ok(()),
            Some(b) => {
                Err(FormatError::Field { part: self.part, field: "a reserved byte", value: u64::from(*b) })
            }
        }
    }
}

/// Appends a text behind its length as u16, cut to `limit` bytes.
pub fn put_text(out: &mut Vec<u8>, text: &str, limit: u16) {
    let cut = text.floor_char_boundary(usize::from(limit));
    let bytes = &text.as_bytes()[..cut];
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(limit).to_le_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_stops_at_the_end() {
        let mut c = Cursor::new("test", &[1, 0, 2]);
        assert_eq!(c.u16(), Ok(1));
        assert_eq!(c.u16(), Err(FormatError::Short { part: "test", need: 2, have: 1 }));
        assert_eq!(c.u8(), Ok(2));
        assert_eq!(c.rest_is_zero(), Ok(()));
    }

    #[test]
    fn a_text_is_bounded_before_it_is_taken() {
        let mut bytes = Vec::new();
        put_text(&mut bytes, "grüße", 4);
        assert_eq!(Cursor::new("test", &bytes).text("name", 4), Ok("grü"));
        assert!(matches!(Cursor::new("test", &bytes).text("name", 3), Err(FormatError::Limit { .. })));
        assert!(Cursor::new("test", &[0xff, 0xff]).text("name", u16::MAX).is_err());
    }
}
