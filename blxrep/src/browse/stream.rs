//! What a long search finds, page by page: a thread searches and waits for whoever asks for more.
//!
//! A search has an order that does not change, because the point does not. So a place in it is the number of what was
//! told before; who asks for one that no thread stands at, has the search made anew up to there.

use super::Question;
use crate::api::browse::Findings;
use crate::api::error::ApiError;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of paths of a page; a message between child and dispatcher has room for that and one more row.
pub const PAGE_BYTES: usize = 1 << 20;
/// Lines of what could not be read that one page has.
pub const MAX_UNREAD: usize = 100;
/// An answer comes after so long, with what there is: whoever waits wants to know that it goes on.
const PATIENCE: Duration = Duration::from_secs(1);
/// Finds that wait to be asked for; then the search waits.
const WAITING: usize = 64;
/// Searches of one child.
const MAX_STREAMS: usize = 4;

/// What a searching thread says.
enum Told {
    Item(Box<RawValue>),
    Unread(String),
    End(Result<(), ApiError>),
}

/// Where a search tells what it finds.
pub struct Teller {
    to: SyncSender<Told>,
    stop: Arc<AtomicBool>,
}

impl Teller {
    pub fn item(&self, row: &impl Serialize) -> Result<(), ApiError> {
        let row = serde_json::value::to_raw_value(row);
        self.tell(Told::Item(row.map_err(|e| ApiError::failed(format!("a row cannot be written: {e}")))?))
    }

    pub fn unread(&self, what: String) -> Result<(), ApiError> {
        self.tell(Told::Unread(what))
    }

    /// An error when nobody wants to know any more. Asked with every name.
    pub fn go_on(&self) -> Result<(), ApiError> {
        if self.stop.load(Ordering::Relaxed) { Err(abandoned()) } else { Ok(()) }
    }

    fn tell(&self, told: Told) -> Result<(), ApiError> {
        self.to.send(told).map_err(|_| abandoned())
    }
}

/// Nobody hears it.
fn abandoned() -> ApiError {
    ApiError::failed("the search was given up")
}

/// A search under way.
struct Stream {
    question: Question,
    /// Items that were told, or passed over.
    told: u64,
    from: Option<Receiver<Told>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    fn start(
        question: Question,
        search: impl FnOnce(&Teller) -> Result<(), ApiError> + Send + 'static,
    ) -> Result<Self, ApiError> {
        let (to, from) = sync_channel(WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let teller = Teller { to, stop: Arc::clone(&stop) };
        let run = move || {
            let end = search(&teller);
            // Nobody may listen any more.
            let _ = teller.tell(Told::End(end));
        };
        let thread = std::thread::Builder::new().name("search".to_owned()).spawn(run);
        let thread = thread.map_err(|e| ApiError::failed(format!("cannot start a thread: {e}")))?;
        Ok(Self { question, told: 0, from: Some(from), stop, thread: Some(thread) })
    }

    /// What comes behind the first `after` items, and whether there may be more.
    fn page(&mut self, after: u64, limit: usize) -> Result<(Findings<Box<RawValue>>, bool), ApiError> {
        let until = Instant::now() + PATIENCE;
        let mut page = Findings { items: Vec::new(), next: None, notes: Vec::new(), unread: Vec::new() };
        let mut bytes = 0;
        while page.items.len() < limit && bytes < PAGE_BYTES && page.unread.len() < MAX_UNREAD {
            match self.hear(until)? {
                Some(Told::Item(_)) if self.told < after => self.told += 1,
                // It was told with the items before.
                Some(Told::Unread(_)) if self.told < after => {}
                Some(Told::Item(item)) => {
                    self.told += 1;
                    bytes += item.get().len();
                    page.items.push(item);
                }
                Some(Told::Unread(what)) => page.unread.push(what),
                Some(Told::End(end)) => return end.map(|()| (page, false)),
                None => break,
            }
        }
        page.next = Some(self.told.max(after).to_string());
        Ok((page, true))
    }

    /// `None` if nothing came in time.
    fn hear(&self, until: Instant) -> Result<Option<Told>, ApiError> {
        let gone =
            || ApiError::failed("the search ended without a word; the log of the dispatcher may say why");
        let from = self.from.as_ref().ok_or_else(gone)?;
        match from.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(told) => Ok(Some(told)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that waits to be heard ends with this, another at its next name.
        self.from = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by its thread.
            let _ = thread.join();
        }
    }
}

/// The searches of a child, the one that was asked for last at the end.
#[derive(Default)]
pub struct Streams(VecDeque<Stream>);

impl Streams {
    /// A page of a search: of one that is under way and has not gone too far, or of a new one.
    pub fn page(
        &mut self,
        question: &Question,
        after: u64,
        limit: usize,
        search: impl FnOnce(&Teller) -> Result<(), ApiError> + Send + 'static,
    ) -> Result<Findings<Box<RawValue>>, ApiError> {
        let fits = |stream: &Stream| stream.question == *question && stream.told <= after;
        let mut stream = match self.0.iter().position(fits).and_then(|at| self.0.remove(at)) {
            Some(stream) => stream,
            None => Stream::start(question.clone(), search)?,
        };
        let (page, more) = stream.page(after, limit)?;
        if more {
            self.0.push_back(stream);
            if self.0.len() > MAX_STREAMS {
                self.0.pop_front();
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    /// Numbers below 100, with a line of what could not be read behind every tenth.
    fn numbers(teller: &Teller) -> Result<(), ApiError> {
        (0..100).try_for_each(|n| {
            teller.item(&n)?;
            if n % 10 == 9 { teller.unread(format!("after {n}")) } else { Ok(()) }
        })
    }

    fn values(page: &Findings<Box<RawValue>>) -> Vec<u64> {
        page.items.iter().map(|item| item.get().parse().unwrap()).collect()
    }

    #[test]
    fn pages_make_up_the_search_and_any_of_them_can_be_asked_for_again() {
        let mut streams = Streams::default();
        let (mut after, mut found, mut unread) = (0, Vec::new(), 0);
        loop {
            let page = streams.page(&Question::Partitions, after, 7, numbers).unwrap();
            found.extend(values(&page));
            unread += page.unread.len();
            match page.next {
                Some(next) => after = next.parse().unwrap(),
                None => break,
            }
        }
        assert_eq!((found, unread), ((0..100).collect(), 10));
        let again = streams.page(&Question::Partitions, 14, 7, numbers).unwrap();
        assert_eq!(values(&again), (14..21).collect::<Vec<_>>());
        let from_the_start = streams.page(&Question::Partitions, 0, 1000, numbers).unwrap();
        assert_eq!((from_the_start.items.len(), from_the_start.next), (100, None));
    }

    #[test]
    fn a_search_that_is_not_asked_for_any_more_ends() {
        let names = Arc::new(AtomicU64::new(0));
        let mut streams = Streams::default();
        for number in 0..=MAX_STREAMS as u32 {
            let names = Arc::clone(&names);
            // Finds nothing for ever.
            let search = move |teller: &Teller| {
                names.fetch_add(1, Ordering::Relaxed);
                let counted = loop {
                    if let Err(error) = teller.go_on() {
                        break error;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                };
                names.fetch_sub(1, Ordering::Relaxed);
                Err(counted)
            };
            let request = crate::api::backend::FindRequest {
                partition: Some(number.into()),
                pattern: Default::default(),
                limit: 0,
                after: 0,
            };
            let page = streams.page(&Question::Find(request), 0, 10, search).unwrap();
            assert_eq!((page.items.len(), page.next.as_deref()), (0, Some("0")));
        }
        assert_eq!(names.load(Ordering::Relaxed), MAX_STREAMS as u64);
        drop(streams);
        assert_eq!(names.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_search_that_failed_says_so() {
        let mut streams = Streams::default();
        let page = streams.page(&Question::Partitions, 0, 10, |_| Err(ApiError::refused("no")));
        assert_eq!(page.unwrap_err(), ApiError::refused("no"));
    }
}
