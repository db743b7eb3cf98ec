//! The handshake: a client looks at what there is and chooses how it will be served. Pure.
//!
//! ```text
//! server greets -> client's flags -> options, each answered -> GO or EXPORT_NAME: commands follow
//!                                                           -> ABORT: the end
//! ```

use super::Offer;

/// What a server says first, and the length of what the client answers.
pub const GREETING_BYTES: usize = 18;
pub const CLIENT_FLAGS_BYTES: usize = 4;
/// Length of the head of an option.
pub const HEAD_BYTES: usize = 16;
/// Data of an option: a name of 4 KiB and some queries. More is read, thrown away and answered as too big.
pub const MAX_DATA_BYTES: u32 = 64 << 10;
/// A client that says it will send more than this is none.
pub const MAX_SKIPPED_BYTES: u32 = 1 << 20;
/// Options of one handshake: a client asks for a dozen things at most.
pub const MAX_OPTIONS: u32 = 64;

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const LIST_META_CONTEXT: u32 = 9;
const SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const ERR_UNSUPPORTED: u32 = 1 << 31 | 1;
const ERR_INVALID: u32 = 1 << 31 | 3;
const ERR_UNKNOWN: u32 = 1 << 31 | 6;
const ERR_TOO_BIG: u32 = 1 << 31 | 9;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

const HAS_FLAGS: u16 = 1;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_FUA: u16 = 1 << 3;
const SEND_TRIM: u16 = 1 << 5;
const SEND_WRITE_ZEROES: u16 = 1 << 6;
const SEND_DF: u16 = 1 << 7;
const CAN_MULTI_CONN: u16 = 1 << 8;

/// Any offset and length is served; these are best; and this much at once.
const MIN_BLOCK: u32 = 1;
const BEST_BLOCK: u32 = 4096;
pub const MAX_REQUEST_BYTES: u32 = 32 << 20;

/// The one context that is offered, and its number.
const ALLOCATION: &str = "base:allocation";
pub const ALLOCATION_ID: u32 = 1;

/// What the server says first.
#[must_use]
pub fn greeting() -> [u8; GREETING_BYTES] {
    let mut out = [0; GREETING_BYTES];
    out[..8].copy_from_slice(&NBD_MAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    out[16..].copy_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    out
}

/// The head of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub option: u32,
    /// Bytes of data behind the head.
    pub length: u32,
}

impl Head {
    /// `None` for what is no option, or one whose data nobody would wait for.
    #[must_use]
    pub fn parse(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (magic, option, length) = (fields.u64()?, fields.u32()?, fields.u32()?);
        (magic == OPTION_MAGIC && length <= MAX_SKIPPED_BYTES).then_some(Self { option, length })
    }
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub structured: bool,
    /// The client may ask what is allocated.
    pub allocation: bool,
}

/// What comes of an option. The bytes are sent in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    More(Vec<u8>),
    /// Commands follow.
    Serve(Vec<u8>),
    End(Vec<u8>),
}

/// One handshake.
#[derive(Debug)]
pub struct Handshake<'a> {
    offer: &'a Offer,
    zeroes: bool,
    terms: Terms,
}

impl<'a> Handshake<'a> {
    /// `None` for a client whose flags nobody knows.
    #[must_use]
    pub fn new(offer: &'a Offer, client_flags: [u8; CLIENT_FLAGS_BYTES]) -> Option<Self> {
        let flags = u32::from_be_bytes(client_flags);
        let known = u32::from(FIXED_NEWSTYLE | NO_ZEROES);
        let zeroes = flags & u32::from(NO_ZEROES) == 0;
        (flags & !known == 0).then_some(Self { offer, zeroes, terms: Terms::default() })
    }

    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// The answer to an option whose data is longer than is taken.
    #[must_use]
    pub fn too_big(&self, option: u32) -> Step {
        match option {
            EXPORT_NAME => Step::End(Vec::new()),
            _ => Step::More(error(option, ERR_TOO_BIG, "the option is too long")),
        }
    }

    /// The answer to an option.
    pub fn answer(&mut self, option: u32, data: &[u8]) -> Step {
        match option {
            // There is no way to say no to it but to leave.
            EXPORT_NAME if !self.is_called(data) => Step::End(Vec::new()),
            EXPORT_NAME => Step::Serve(self.old_export()),
            ABORT => Step::End(reply(option, REP_ACK, &[])),
            LIST if data.is_empty() => Step::More(self.list(option)),
            INFO | GO => self.info(option, data),
            STRUCTURED_REPLY if data.is_empty() => {
                self.terms.structured = true;
                Step::More(reply(option, REP_ACK, &[]))
            }
            LIST_META_CONTEXT | SET_META_CONTEXT => Step::More(self.contexts(option, data)),
            LIST | STRUCTURED_REPLY => Step::More(error(option, ERR_INVALID, "this option has no data")),
            _ => Step::More(error(option, ERR_UNSUPPORTED, "this option is not known here")),
        }
    }

    fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.offer.name.as_bytes()
    }

    fn flags(&self) -> u16 {
        let more = match self.offer.writable {
            true => SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES,
            // Nothing changes, so that what one connection sees is what all see.
            false => READ_ONLY | CAN_MULTI_CONN,
        };
        HAS_FLAGS | more | if self.terms.structured { SEND_DF } else { 0 }
    }

    fn old_export(&self) -> Vec<u8> {
        let mut out = self.offer.bytes.to_be_bytes().to_vec();
        out.extend_from_slice(&self.flags().to_be_bytes());
        if self.zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        out
    }

    fn list(&self, option: u32) -> Vec<u8> {
        let name = self.offer.name.as_bytes();
        let mut data = length_of(name).to_be_bytes().to_vec();
        data.extend_from_slice(name);
        data.extend_from_slice(self.offer.description.as_bytes());
        let mut out = reply(option, REP_SERVER, &data);
        out.extend_from_slice(&reply(option, REP_ACK, &[]));
        out
    }

    fn info(&self, option: u32, data: &[u8]) -> Step {
        let mut fields = Fields(data);
        let Some((name, wanted)) = fields.info() else {
            return Step::More(error(option, ERR_INVALID, "the option is not as it should be"));
        };
        if !self.is_called(name) {
            return Step::More(error(option, ERR_UNKNOWN, "there is no such export"));
        }
        let mut out = Vec::new();
        let mut tell = |kind: u16, data: &[&[u8]]| {
            let data = [&[&kind.to_be_bytes()[..]], data].concat().concat();
            out.extend_from_slice(&reply(option, REP_INFO, &data));
        };
        tell(INFO_EXPORT, &[&self.offer.bytes.to_be_bytes(), &self.flags().to_be_bytes()]);
        for kind in wanted {
            match kind {
                INFO_NAME => tell(kind, &[self.offer.name.as_bytes()]),
                INFO_DESCRIPTION => tell(kind, &[self.offer.description.as_bytes()]),
                _ => {}
            }
        }
        let blocks = [MIN_BLOCK, BEST_BLOCK, MAX_REQUEST_BYTES].map(u32::to_be_bytes);
        tell(INFO_BLOCK_SIZE, &[blocks.as_flattened()]);
        out.extend_from_slice(&reply(option, REP_ACK, &[]));
        if option == GO { Step::Serve(out) } else { Step::More(out) }
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> Vec<u8> {
        let mut fields = Fields(data);
        let Some((name, queries)) = fields.queries() else {
            return error(option, ERR_INVALID, "the option is not as it should be");
        };
        if !self.is_called(name) {
            return error(option, ERR_UNKNOWN, "there is no such export");
        }
        if !self.terms.structured {
            return error(option, ERR_INVALID, "structured replies come first");
        }
        let listing = option == LIST_META_CONTEXT;
        let all = listing && (queries.is_empty() || queries.contains(&&b"base:"[..]));
        let found = all || queries.contains(&ALLOCATION.as_bytes());
        if !listing {
            self.terms.allocation = found;
        }
        let mut out = Vec::new();
        if found {
            let id = if listing { 0 } else { ALLOCATION_ID };
            out = reply(option, REP_META_CONTEXT, &[&id.to_be_bytes(), ALLOCATION.as_bytes()].concat());
        }
        out.extend_from_slice(&reply(option, REP_ACK, &[]));
        out
    }
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = REPLY_MAGIC.to_be_bytes().to_vec();
    for field in [option, kind, length_of(data)] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    out.extend_from_slice(data);
    out
}

fn error(option: u32, kind: u32, why: &str) -> Vec<u8> {
    reply(option, kind, why.as_bytes())
}

fn length_of(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// Fields from the front of an option's data.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(*self.take(4)?.first_chunk()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(*self.take(8)?.first_chunk()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// A name and the kinds of information that are asked for, and nothing else.
    fn info(&mut self) -> Option<(&'a [u8], Vec<u16>)> {
        let name = self.text()?;
        let count = self.u16()?;
        let kinds = (0..count).map(|_| self.u16()).collect::<Option<Vec<_>>>()?;
        self.0.is_empty().then_some((name, kinds))
    }

    /// A name and queries, and nothing else.
    fn queries(&mut self) -> Option<(&'a [u8], Vec<&'a [u8]>)> {
        let name = self.text()?;
        let count = self.u32()?;
        // Each takes 4 bytes at least: a count that lies ends with the data.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(self.text()?);
        }
        self.0.is_empty().then_some((name, queries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer() -> Offer {
        let (name, description) = ("4f0c2a9b01d3e587".to_owned(), "a disk".to_owned());
        Offer { name, description, bytes: 1 << 30, writable: false }
    }

    fn named(name: &[u8], rest: &[u8]) -> Vec<u8> {
        [&length_of(name).to_be_bytes(), name, rest].concat()
    }

    /// The kinds of the replies in `bytes`.
    fn kinds(mut bytes: &[u8]) -> Vec<u32> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let mut fields = Fields(bytes);
            assert_eq!(fields.u64(), Some(REPLY_MAGIC));
            fields.u32().unwrap();
            out.push(fields.u32().unwrap());
            fields.text().unwrap();
            bytes = fields.0;
        }
        out
    }

    #[test]
    fn a_client_learns_what_there_is_and_goes() {
        let offer = offer();
        let mut shake = Handshake::new(&offer, [0, 0, 0, 3]).unwrap();
        assert_eq!(shake.answer(STRUCTURED_REPLY, b""), Step::More(reply(STRUCTURED_REPLY, REP_ACK, b"")));
        let query = named(b"", &[&1u32.to_be_bytes()[..], &named(b"base:allocation", b"")].concat());
        match shake.answer(SET_META_CONTEXT, &query) {
            Step::More(bytes) => assert_eq!(kinds(&bytes), [REP_META_CONTEXT, REP_ACK]),
            other => panic!("{other:?}"),
        }
        assert_eq!(shake.terms(), Terms { structured: true, allocation: true });
        match shake.answer(INFO, &named(b"nothing", &[0, 0])) {
            Step::More(bytes) => assert_eq!(kinds(&bytes), [ERR_UNKNOWN]),
            other => panic!("{other:?}"),
        }
        match shake.answer(GO, &named(b"4f0c2a9b01d3e587", &[0, 2, 0, 1, 0, 3])) {
            Step::Serve(bytes) => assert_eq!(kinds(&bytes), [REP_INFO, REP_INFO, REP_INFO, REP_ACK]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_old_client_is_served_by_name() {
        let offer = offer();
        let mut shake = Handshake::new(&offer, [0, 0, 0, 1]).unwrap();
        match shake.answer(EXPORT_NAME, b"") {
            Step::Serve(bytes) => assert_eq!(bytes.len(), 8 + 2 + 124),
            other => panic!("{other:?}"),
        }
        assert_eq!(shake.answer(EXPORT_NAME, b"other"), Step::End(Vec::new()));
        assert!(Handshake::new(&offer, [0, 0, 0, 4]).is_none());
    }

    #[test]
    fn what_makes_no_sense_is_answered_as_an_error() {
        let offer = offer();
        let mut shake = Handshake::new(&offer, [0, 0, 0, 3]).unwrap();
        let query = named(b"", &1u32.to_be_bytes());
        for (option, data, kind) in [
            (99, &b""[..], ERR_UNSUPPORTED),
            (5, b"", ERR_UNSUPPORTED),
            (LIST, b"x", ERR_INVALID),
            (GO, b"", ERR_INVALID),
            (GO, &named(b"", &[0, 1]), ERR_INVALID),
            (GO, &u32::MAX.to_be_bytes(), ERR_INVALID),
            (SET_META_CONTEXT, &query, ERR_INVALID),
            (SET_META_CONTEXT, &named(b"", &u32::MAX.to_be_bytes()), ERR_INVALID),
            (SET_META_CONTEXT, &named(b"", &0u32.to_be_bytes()), ERR_INVALID),
        ] {
            match shake.answer(option, data) {
                Step::More(bytes) => assert_eq!(kinds(&bytes), [kind], "{option} {data:?}"),
                other => panic!("{option}: {other:?}"),
            }
        }
        assert_eq!(shake.terms(), Terms::default());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            option in 0u32..12, data in proptest::collection::vec(any::<u8>(), 0..200), head: [u8; HEAD_BYTES]
        ) {
            let offer = offer();
            let mut shake = Handshake::new(&offer, [0; 4]).unwrap();
            shake.answer(STRUCTURED_REPLY, b"");
            if let Step::More(bytes) = shake.answer(option, &data) {
                prop_assert!(!kinds(&bytes).is_empty());
            }
            prop_assert!(Head::parse(&head).is_none());
        }
    }
}
