//! One protected disk as the agent's tasks share it: what tracks it, what reads it, what is known of it.

use super::watch::Watches;
use crate::engine::audit::{Audit, Proof, Verdict};
use crate::engine::cut::{self, Swept, Witnesses};
use crate::io::source::DiskSource;
use crate::io::tracker::DiskTracker;
use crate::model::bitmap::Bitmap;
use crate::model::comparison::Compared;
use crate::model::granules::GranuleSet;
use crate::model::holes::Holes;
use crate::model::host::HostDisk;
use crate::model::ids::{ActionId, DiskIdentity, Epoch, PointId};
use crate::model::tracking::{
    Baseline, BaselineSearch, EpochRecord, IMAGE_WORD, Imaged, SENT_WORD, SKIPPED_WORD, Sample,
};
use crate::model::units::GranuleSize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pause between two samples of an audit: less than the distance that agreeing samples need.
const SAMPLE_PAUSE: Duration = Duration::from_micros(100);
/// How long a new baseline is looked for after a gap. Without one the gap is found again by the next cut.
const REBASE_WAIT: Duration = Duration::from_secs(5);

/// Why nothing is known of what was written last.
const DETACHED: &str = "the pins were removed under the running agent: what is written is not seen";

/// Why the marked changes are not those since a point that is known to be there.
const UNCOUNTED: &str = "an image was begun, and its point is not known to be published";

/// A tracked disk.
#[derive(Debug)]
pub struct Unit {
    pub identity: DiskIdentity,
    pub source: Arc<DiskSource>,
    device: String,
    tracker: Arc<DiskTracker>,
    lease: Arc<tokio::sync::Mutex<()>>,
    /// Sweeps so far: what was read before one that its reader does not know of counts no more.
    sweeps: AtomicU64,
    state: Mutex<State>,
}

/// The right to sweep a disk, audit it and acknowledge its points. Whatever works on the disk holds a share of it, also
/// after the cut that it worked for was dropped: a sweep that outlived its cut would take bits from the next one.
pub type Lease = Arc<tokio::sync::OwnedMutexGuard<()>>;

#[derive(Debug)]
struct State {
    audit: Audit,
    /// What a rescan that broke off has found. It counts for as long as nothing of the disk was swept.
    compared: Option<Compared>,
    /// What the newest point could not hold, because it cannot be read.
    holes: GranuleSet,
    /// Nothing but holes was left pending: until a cut fails, what is pending there was not swept from a write.
    holes_apart: bool,
    /// The comparisons that go on beside the cuts.
    watches: Watches,
}

/// What the audit says of the point that was formed last.
#[derive(Debug)]
pub enum AuditOutcome {
    /// Complete, and the issue witness adds up. With what the audit cannot see.
    Proven(Vec<String>),
    /// Complete as far as is known; not proven.
    Unproven(String),
    /// Changes were missed: the point must carry the whole disk.
    Gap(String),
}

impl Unit {
    /// A disk whose tracking has just begun or been taken up again; its record says which.
    pub fn new(
        identity: DiskIdentity,
        device: String,
        source: DiskSource,
        tracker: Arc<DiskTracker>,
        lease: Arc<tokio::sync::Mutex<()>>,
    ) -> Self {
        let audit = Audit::new(tracker.record().baseline, tracker.reporting());
        let source = Arc::new(source);
        let state = Mutex::new(State {
            audit,
            compared: None,
            holes: GranuleSet::new(),
            holes_apart: false,
            watches: Watches::default(),
        });
        Self { identity, source, device, tracker, lease, sweeps: AtomicU64::new(0), state }
    }

    /// Sweeps disks together; see [`cut::sweep`].
    pub fn sweep(units: &[&Self]) -> Vec<Swept> {
        for unit in units {
            unit.sweeps.fetch_add(1, Ordering::SeqCst);
        }
        cut::sweep(units)
    }

    /// How often the disk was swept since it became known.
    pub fn sweeps(&self) -> u64 {
        self.sweeps.load(Ordering::SeqCst)
    }

    /// Waits until nobody works on the disk any more.
    pub async fn lease(&self) -> Lease {
        Arc::new(Arc::clone(&self.lease).lock_owned().await)
    }

    /// Node that the disk is read from.
    pub fn device(&self) -> String {
        self.device.clone()
    }

    pub fn granule(&self) -> GranuleSize {
        self.tracker.granule()
    }

    pub fn granules(&self) -> u32 {
        self.tracker.granules()
    }

    /// Size of the disk when tracking began.
    pub fn bytes(&self) -> u64 {
        self.tracker.bytes()
    }

    /// Whether the disk that the host has now is the one that tracking began with.
    pub fn sits_in(&self, disk: &HostDisk) -> bool {
        let then = self.tracker.record();
        (then.device, then.diskseq, then.disk_bytes) == ((disk.major, disk.minor), disk.diskseq, disk.bytes)
            && self.device == disk.device
    }

    pub fn epoch(&self) -> Epoch {
        self.tracker.record().epoch
    }

    /// What the pinned record knows: the point that was acknowledged last, the one whose fate is unknown, and the one
    /// that the disk was compared with.
    pub fn continuity(&self) -> [Option<PointId>; 3] {
        let record = self.tracker.record();
        [record.acknowledged, record.open, record.matched]
    }

    /// Records that a point on top of `parent` is being sent. A gap that was known when the parent was sealed is closed by
    /// it, although nobody heard that it was published.
    pub fn opened(&self, parent: PointId) -> Result<(), String> {
        let _state = self.state();
        let mut record = self.tracker.record();
        if record.open == Some(parent) {
            (record.gap, record.matched) = (None, None);
        }
        (record.acknowledged, record.open) = (Some(parent), None);
        self.store(&record)
    }

    /// Records that the image `point` is being sent. It sweeps and forgets what it carries itself, so what a comparison
    /// has found before counts no more if the image is given up: what follows then is a comparison, as the dispatcher
    /// does not know the point. So it closes every gap, or it is as if it had never been.
    ///
    /// It goes on, or nothing of it was sent by now.
    pub fn imaging(&self, point: PointId) -> Result<(), String> {
        let goes_on = self.imaged().is_some_and(|known| known.image == point);
        let mut state = self.state();
        let mut record = self.tracker.record();
        (record.gap, record.matched, state.compared) = (None, None, None);
        (record.acknowledged, record.open) = (None, None);
        record.agent_words[IMAGE_WORD] = point.0;
        if !goes_on {
            record.agent_words[SENT_WORD] = 0;
        }
        self.store(&record)
    }

    /// The image that was begun last, and how far it may have been sent. `None` if anything was acknowledged since: what was
    /// written before that is not marked any more.
    pub fn imaged(&self) -> Option<Imaged> {
        let record = self.tracker.record();
        let [image, sent] = [IMAGE_WORD, SENT_WORD].map(|word| record.agent_words[word]);
        let counts = (record.acknowledged, record.matched) == (None, None) && image != 0;
        counts.then_some(Imaged { image: PointId(image), sent })
    }

    /// Records, before it is done, that the image is sent up to here.
    pub fn sending(&self, end: u64) -> Result<(), String> {
        let _state = self.state();
        let mut record = self.tracker.record();
        if record.agent_words[SENT_WORD] >= end {
            return Ok(());
        }
        record.agent_words[SENT_WORD] = end;
        self.store(&record)
    }

    /// Records that all of `point` is read, before the dispatcher hears that: from here on it may be published without
    /// anybody hearing of it. No sooner, for a machine that is set back to a moment before knows less than the point.
    pub fn sealed(&self, point: PointId) -> Result<(), String> {
        let _state = self.state();
        self.store(&EpochRecord { open: Some(point), ..self.tracker.record() })
    }

    /// `point`, which carries these granules, is durable at the dispatcher: they are clean but for what moved since,
    /// coverage counts from here, and a shortfall that was measured for the point is written off. Scans the maps.
    /// `holes` could not be read: they stay dirty, and every later point tries them again.
    ///
    /// The record comes before the maps: killed between the two, too much is dirty.
    pub fn published(&self, point: PointId, carried: &GranuleSet, holes: GranuleSet) -> Result<(), String> {
        let mut state = self.state();
        // Before it is cleared: who looks at the maps and then here misses nothing.
        state.watches.carried(carried);
        state.audit.published();
        state.audit.take_changed();
        (state.holes, state.holes_apart) = (holes, true);
        let mut record = self.tracker.record();
        (record.acknowledged, record.open, record.baseline) = (Some(point), None, *state.audit.baseline());
        (record.gap, record.matched) = (None, None);
        self.store(&record)?;
        drop(state);
        cut::acknowledge(self, carried);
        Ok(())
    }

    fn store(&self, record: &EpochRecord) -> Result<(), String> {
        self.tracker.store_record(record).map_err(|e| e.to_string())
    }

    /// The point that was being formed will not be published: its shortfall stays on the books.
    pub fn abandoned(&self) {
        let mut state = self.state();
        state.audit.abandoned();
        state.holes_apart = false;
    }

    /// Why coverage was lost after the newest point: what the next point will show.
    pub fn gap(&self) -> Option<String> {
        let record = self.tracker.record();
        let is_counted = record.acknowledged.is_some() || record.matched.is_some();
        record.gap.or_else(|| (!is_counted).then(|| UNCOUNTED.to_owned()))
    }

    /// Why the disk has to be compared with the newest point before anything else.
    pub fn lost_coverage(&self) -> Option<String> {
        let record = self.tracker.record();
        record.gap.filter(|_| record.matched.is_none())
    }

    /// Every granule may differ from what the dispatcher has. Kept in the maps and in the record, in this order, so
    /// that a crash does not forget it.
    pub fn lose_coverage(&self, reason: &str) -> Result<(), String> {
        self.tracker.pending().mark(&GranuleSet::full(self.granules()));
        let mut state = self.state();
        state.compared = None;
        state.watches.spoil(reason);
        let mut record = self.tracker.record();
        (record.gap, record.matched) = (Some(reason.to_owned()), None);
        self.store(&record)
    }

    /// The disk is tracked anew, or not at all, from now on: this is no more what knows its changes.
    pub fn retire(&self) {
        self.state().watches.spoil("tracking of the disk ended or began anew");
    }

    /// Prepares a comparison: everything is dirty, and what changes from here on is marked beside that. What is read
    /// before this returns does not count.
    pub fn arm(&self) {
        let mut state = self.state();
        state.compared = None;
        // What is found equal to the point will be clean, although it may have been written since a watch began.
        state.watches.spoil("the disk was compared with its newest point meanwhile");
        drop(state);
        self.tracker.pending().mark(&GranuleSet::full(self.granules()));
        Self::sweep(&[self]);
    }

    /// What a comparison with this point that broke off has found. Nothing was swept since: the disk is in no cut.
    pub fn take_compared(&self, point: PointId) -> Option<Compared> {
        self.state().compared.take().filter(|compared| compared.point == point)
    }

    /// Keeps what a comparison has found so far.
    pub fn keep_compared(&self, compared: Compared) {
        self.state().compared = Some(compared);
    }

    /// The granules that were equal to the point's when they were read, after [`Self::arm`], are as clean as if a point
    /// that carried them had been published: what was written since is marked, what is in flight stays. Only then
    /// does the record name the point.
    pub fn narrow(&self, compared: &Compared) -> Result<(), String> {
        let equal = &GranuleSet::full(self.granules()) - &compared.differing;
        cut::acknowledge(self, &equal);
        let _state = self.state();
        let mut record = self.tracker.record();
        (record.acknowledged, record.open) = (Some(compared.point), None);
        record.matched = Some(compared.point);
        self.store(&record)
    }

    /// From here on, what points carry is remembered, so that a comparison beside them knows what changed.
    pub fn watch(&self, action: ActionId) {
        self.state().watches.begin(action);
    }

    /// The action does not want to know what changed any more.
    pub fn forget_watch(&self, action: ActionId) {
        self.state().watches.forget(action);
    }

    /// Everything that changed since the action's [`Self::watch`], and what was dirty then; or why that is not known.
    /// Ends the watch.
    pub fn unwatch(&self, action: ActionId) -> Result<GranuleSet, String> {
        // Looked at first: what an acknowledgement clears here meanwhile was added there before.
        let mut changed = self.dirty();
        changed.union_with(&self.state().watches.end(action)?);
        // Whoever is tracked anew has other hooks, and what they see is not here.
        if self.tracker.is_attached() { Ok(changed) } else { Err(DETACHED.to_owned()) }
    }

    /// Everything that may differ from what the dispatcher has.
    pub fn dirty(&self) -> GranuleSet {
        let mut dirty = self.written();
        dirty.union_with(&self.tracker.pending().peek());
        dirty
    }

    /// What was written since the last sweep.
    fn written(&self) -> GranuleSet {
        let mut written = self.tracker.issued().peek();
        written.union_with(&self.tracker.completed().peek());
        written.union_with(&self.tracker.inflight().ranges);
        written
    }

    /// Whether nothing changed since the last point. That something still cannot be read is no change; a write to it is.
    pub fn is_clean(&self) -> bool {
        let state = self.state();
        let holes = if state.holes_apart { state.holes.clone() } else { GranuleSet::new() };
        drop(state);
        // The maps in this order: a sweep moves bits from those that are looked at first.
        let written = self.written();
        self.gap().is_none() && written.is_empty() && (&self.tracker.pending().peek() - &holes).is_empty()
    }

    /// The granules that holes touch.
    pub fn granules_of(&self, holes: &Holes) -> GranuleSet {
        let mut granules = GranuleSet::new();
        holes.bytes().for_each(|bytes| granules.insert_range(self.granule().touched(bytes)));
        granules
    }

    /// Keeps granules for the next round and the next point.
    pub fn mark_dirty(&self, granules: &GranuleSet) {
        self.tracker.pending().mark(granules);
    }

    /// Whether no audit speaks against that. Blocks.
    pub fn is_covered(&self) -> bool {
        matches!(self.audit(), Ok(AuditOutcome::Proven(_) | AuditOutcome::Unproven(_)))
    }

    /// What the audit cannot see on this disk.
    pub fn notes(&self) -> Vec<String> {
        let classes = self.state().audit.not_audited();
        classes
            .iter()
            .map(|class| format!("{class} requests are not audited: the kernel does not account them"))
            .collect()
    }

    /// What the newest point lacks.
    pub fn hole_note(&self) -> Option<String> {
        let bytes = self.state().holes.len() * self.granule().bytes();
        let note = || {
            format!("the newest point has holes, see its notes: {bytes} bytes are tried again in the next")
        };
        (bytes > 0).then(note)
    }

    /// Looks at both witnesses until they prove something, for a bounded time. Blocks.
    ///
    /// A gap is answered here already: everything becomes dirty, and the audit starts anew from a baseline that
    /// counts the missed change as known, so that the point that carries the whole disk can be proven.
    pub fn audit(&self) -> Result<AuditOutcome, String> {
        let mut proof = Proof::new();
        loop {
            let sample = self.sample()?;
            let mut state = self.state();
            let verdict = proof.offer(&mut state.audit, &sample);
            // Behind a gap comes a new one, once the gap is on record.
            if !matches!(verdict, Some(Verdict::Gap(_))) && state.audit.take_changed() {
                self.store_baseline(&state)?;
            }
            drop(state);
            let Some(verdict) = verdict else {
                std::thread::sleep(SAMPLE_PAUSE);
                continue;
            };
            // Also when all is proven: the parts of a discard are in the table, and in no count.
            self.tracker.retire_stale().map_err(unreadable)?;
            // Asked last: what was written before this was seen. No baseline is looked for where nobody counts.
            if !self.tracker.is_attached() {
                self.lose_coverage(DETACHED)?;
                return Ok(AuditOutcome::Gap(DETACHED.to_owned()));
            }
            match self.with_skipped(verdict)? {
                (Verdict::Proven, misses) => {
                    self.settle_skipped(misses)?;
                    return Ok(AuditOutcome::Proven(self.notes()));
                }
                (Verdict::Unproven(reason), _) => return Ok(AuditOutcome::Unproven(reason)),
                (Verdict::Gap(reason), misses) => {
                    self.lose_coverage(&reason)?;
                    self.settle_skipped(misses)?;
                    self.rebase()?;
                    return Ok(AuditOutcome::Gap(reason));
                }
            }
        }
    }

    /// What the kernel skipped is in no count. Where it accounts everything, the proof stands all the same: a skipped
    /// event is a shortfall. Where it does not, nobody knows what was skipped. Also returns the count of skipped events
    /// that the verdict stands for.
    fn with_skipped(&self, verdict: Verdict) -> Result<(Verdict, u64), String> {
        let misses = self.tracker.recursion_misses().map_err(|e| e.to_string())?;
        let skipped = misses.wrapping_sub(self.tracker.record().agent_words[SKIPPED_WORD]);
        let unaudited = self.state().audit.not_audited();
        if skipped == 0 || verdict != Verdict::Proven || unaudited.is_empty() {
            return Ok((verdict, misses));
        }
        let reason = format!(
            "the kernel skipped {skipped} events, and {} requests are not audited on this disk",
            unaudited.join(" and ")
        );
        Ok((Verdict::Gap(reason), misses))
    }

    /// What these skipped events may have cost is known: nothing, or everything is dirty.
    fn settle_skipped(&self, misses: u64) -> Result<(), String> {
        let _state = self.state();
        let mut record = self.tracker.record();
        record.agent_words[SKIPPED_WORD] = misses;
        self.store(&record)
    }

    /// A look at both witnesses. A disk that has another size must be tracked anew, with other maps.
    fn sample(&self) -> Result<Sample, String> {
        let sample = self.tracker.audit_sample().map_err(unreadable)?;
        if sample.disk_bytes != self.bytes() {
            let (then, now) = (self.bytes(), sample.disk_bytes);
            return Err(format!("the disk was resized from {then} to {now} bytes: tracking begins anew"));
        }
        Ok(sample)
    }

    /// Begins the audit anew, after everything has been marked dirty.
    fn rebase(&self) -> Result<(), String> {
        let mut search = BaselineSearch::default();
        let deadline = Instant::now() + REBASE_WAIT;
        while Instant::now() < deadline {
            let sample = self.sample()?;
            // An entry whose completion was lost would make the baseline count it as settled.
            let settled = sample.after.in_table() == sample.inflight;
            if !settled {
                self.tracker.retire_stale().map_err(unreadable)?;
            } else if let Some(found) = search.offer(&sample) {
                let mut state = self.state();
                let accounting = state.audit.baseline().accounting;
                state.audit = Audit::new(Baseline { accounting, ..found }, self.tracker.reporting());
                return self.store_baseline(&state);
            }
            std::thread::sleep(SAMPLE_PAUSE);
        }
        Err(format!("the disk did not stand still for a moment within {} s", REBASE_WAIT.as_secs()))
    }

    fn store_baseline(&self, state: &State) -> Result<(), String> {
        let mut record = self.tracker.record();
        record.baseline = *state.audit.baseline();
        self.store(&record)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witnesses for Unit {
    fn issued(&self) -> Bitmap<'_> {
        self.tracker.issued()
    }

    fn completed(&self) -> Bitmap<'_> {
        self.tracker.completed()
    }

    fn pending(&self) -> Bitmap<'_> {
        self.tracker.pending()
    }

    fn in_flight(&self) -> GranuleSet {
        self.tracker.inflight().ranges
    }
}

fn unreadable(error: std::io::Error) -> String {
    format!("cannot read the kernel's statistics of the disk: {error}")
}
