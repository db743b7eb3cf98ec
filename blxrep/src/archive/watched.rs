//! A sink that is looked at while it works: for progress, and to end it early.

use super::{ArchiveError, Entry, Meta, Name, Sink, Want};

/// Passes everything on, and looks at the sink before each entry and each piece of data. An error of the look ends it.
#[derive(Debug)]
pub struct Watched<S, L> {
    pub sink: S,
    look: L,
}

impl<S: Sink, L: FnMut(&S) -> Result<(), ArchiveError>> Watched<S, L> {
    pub const fn new(sink: S, look: L) -> Self {
        Self { sink, look }
    }
}

impl<S: Sink, L: FnMut(&S) -> Result<(), ArchiveError>> Sink for Watched<S, L> {
    fn top(&mut self, meta: &Meta) -> Result<(), ArchiveError> {
        self.sink.top(meta)
    }

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError> {
        (self.look)(&self.sink)?;
        self.sink.entry(entry)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ArchiveError> {
        (self.look)(&self.sink)?;
        self.sink.data(offset, bytes)
    }

    fn end_file(&mut self) -> Result<(), ArchiveError> {
        self.sink.end_file()
    }

    fn leave(&mut self) -> Result<(), ArchiveError> {
        self.sink.leave()
    }

    fn failed(&mut self, name: Option<&Name>, why: &str) -> Result<(), ArchiveError> {
        self.sink.failed(name, why)
    }

    fn end(&mut self) -> Result<(), ArchiveError> {
        (self.look)(&self.sink)?;
        self.sink.end()
    }
}
