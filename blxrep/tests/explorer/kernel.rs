//! What writes, the device and the programs do, step by step: the rules of `blxrep-ebpf`.

use crate::search::Action;
use crate::state::{Entry, Phase, State};
use crate::world::{Mask, World};

/// Everything that the kernel's side may do next.
pub fn steps(world: &World, state: &State, next: &mut Vec<(Action, State)>) {
    for index in 0..world.writes.len() {
        match state.phases[index] {
            Phase::Waiting => issue(world, state, index, next),
            Phase::Marking(marked) => go_on_marking(world, state, index, marked, next),
            Phase::EnteringPart(part) => enter_part(world, state, index, part, next),
            Phase::Leftover => settle_leftover(world, state, index, next),
            Phase::Entering => enter(world, state, index, next),
            Phase::InFlight => {
                land(world, state, index, next);
                complete(world, state, index, next);
            }
            Phase::Completing(marked) => go_on_completing(world, state, index, marked, next),
            Phase::LeavingPart(part) => leave_part(world, state, index, part, next),
            Phase::Done => {}
        }
    }
}

fn step(state: &State, index: usize, phase: Phase) -> State {
    let mut state = state.clone();
    state.phases[index] = phase;
    state
}

fn granule(world: &World, index: usize, nth: u8) -> Mask {
    world.writes[index].granules().nth(usize::from(nth)).map_or(0, |granule| 1 << granule)
}

fn width(world: &World, index: usize) -> u8 {
    u8::try_from(world.writes[index].granules().len()).unwrap()
}

fn issue(world: &World, state: &State, index: usize, next: &mut Vec<(Action, State)>) {
    let write = &world.writes[index];
    let waits = write.after.is_some_and(|after| state.phases[after] != Phase::Done);
    let under_way = |other: usize| !matches!(state.phases[other], Phase::Waiting | Phase::Done);
    let taken =
        (0..world.writes.len()).any(|w| w != index && world.writes[w].key == write.key && under_way(w));
    if waits || taken {
        return;
    }
    let mut issued = state.clone();
    issued.before[index] = state.done();
    if state.losses > 0 {
        let mut lost = step(&issued, index, Phase::InFlight);
        lost.losses -= 1;
        next.push((Action::LoseIssue(index), lost));
    }
    issued.phases[index] = Phase::Marking(0);
    go_on_marking(world, &issued, index, 0, next);
}

fn go_on_marking(world: &World, state: &State, index: usize, marked: u8, next: &mut Vec<(Action, State)>) {
    let phase = match world.writes[index].scattered {
        true => Phase::EnteringPart(marked),
        false => after_mark(world, state, index, marked),
    };
    let mut state = step(state, index, phase);
    state.issued |= granule(world, index, marked);
    if world.prompt && phase == Phase::Entering {
        return enter(world, &state, index, next);
    }
    next.push((Action::MarkIssued(index), state));
}

fn after_mark(world: &World, state: &State, index: usize, marked: u8) -> Phase {
    match state.table[world.writes[index].key] {
        _ if marked + 1 < width(world, index) => Phase::Marking(marked + 1),
        None => Phase::Entering,
        Some(_) => Phase::Leftover,
    }
}

/// A part is not counted, and neither is a leftover that was one.
fn enter_part(world: &World, state: &State, index: usize, part: u8, next: &mut Vec<(Action, State)>) {
    let mut state = step(state, index, after_mark(world, state, index, part));
    let entry = Entry { write: u8::try_from(index).unwrap(), part: Some(part) };
    if let Some(leftover) = state.table[part_place(world, index, part)].replace(entry) {
        state.completed |= leftover.mask(world);
    }
    next.push((Action::EnterPart(index), state));
}

fn part_place(world: &World, index: usize, part: u8) -> usize {
    world.writes[index].key + 1 + usize::from(part)
}

fn settle_leftover(world: &World, state: &State, index: usize, next: &mut Vec<(Action, State)>) {
    let mut state = step(state, index, Phase::Entering);
    let place = world.writes[index].key;
    if let Some(leftover) = state.table[place] {
        state.completed |= leftover.mask(world);
        settle(world, &mut state, leftover);
    }
    next.push((Action::SettleLeftover(index), state));
}

fn enter(world: &World, state: &State, index: usize, next: &mut Vec<(Action, State)>) {
    let mut state = step(state, index, Phase::InFlight);
    let entry = Entry { write: u8::try_from(index).unwrap(), part: None };
    state.table[world.writes[index].key] = Some(entry);
    state.counts[disk(world, index)].entered += 1;
    next.push((Action::Enter(index), state));
}

fn land(world: &World, state: &State, index: usize, next: &mut Vec<(Action, State)>) {
    let write = u8::try_from(index + 1).unwrap();
    for part in world.writes[index].range().filter(|part| state.position(*part, write) == 0) {
        let mut state = state.clone();
        state.land(part, write);
        next.push((Action::Land(index, part), state));
    }
}

fn complete(world: &World, state: &State, index: usize, next: &mut Vec<(Action, State)>) {
    let write = u8::try_from(index + 1).unwrap();
    if world.writes[index].range().any(|part| state.position(part, write) == 0) {
        return;
    }
    if state.losses > 0 {
        let mut lost = step(state, index, Phase::Done);
        lost.losses -= 1;
        account(world, &mut lost, index);
        next.push((Action::LoseCompletion(index), lost));
    }
    go_on_completing(world, state, index, 0, next);
}

/// The hook marks the range of the entry that it finds, and its own if that lies outside; then it settles the entry,
/// or counts an orphan. The parts of a discard are taken out one by one before.
fn go_on_completing(world: &World, state: &State, index: usize, marked: u8, next: &mut Vec<(Action, State)>) {
    if marked < width(world, index) {
        let scattered = world.writes[index].scattered;
        let phase = if scattered { Phase::LeavingPart(marked) } else { Phase::Completing(marked + 1) };
        let mut state = step(state, index, phase);
        state.completed |= granule(world, index, marked);
        next.push((Action::MarkCompleted(index), state));
        return;
    }
    let mut state = step(state, index, Phase::Done);
    match state.table[world.writes[index].key].take() {
        None => {
            let sectors = sectors(world, index);
            let counts = &mut state.counts[disk(world, index)];
            counts.orphans += 1;
            counts.orphan_sectors += sectors;
        }
        Some(entry) => {
            state.completed |= entry.mask(world);
            settle(world, &mut state, entry);
        }
    }
    account(world, &mut state, index);
    next.push((Action::Complete(index), state));
}

fn leave_part(world: &World, state: &State, index: usize, part: u8, next: &mut Vec<(Action, State)>) {
    let mut state = step(state, index, Phase::Completing(part + 1));
    state.table[part_place(world, index, part)] = None;
    next.push((Action::LeavePart(index), state));
}

/// Takes out what is stale from user space: marked completed first.
pub fn retire(world: &World, state: &State, next: &mut Vec<(Action, State)>) {
    for (place, entry) in state.table.iter().enumerate() {
        let Some(entry) = *entry else { continue };
        // The tracker has waited long enough to know that no hook is at work on the entry.
        let under_way = |w: &usize| !matches!(state.phases[*w], Phase::Waiting | Phase::Done);
        let mut uses = (0..world.writes.len()).filter(|w| world.writes[*w].places().contains(&place));
        let on = disk(world, usize::from(entry.write));
        if uses.any(|w| under_way(&w)) || in_flight(world, state, on) != 0 {
            continue;
        }
        let mut state = state.clone();
        state.completed |= entry.mask(world);
        state.table[place] = None;
        settle(world, &mut state, entry);
        next.push((Action::Retire(usize::from(entry.write)), state));
    }
}

/// Requests that the kernel has in flight on a disk. One that is completed and not yet accounted counts too: that
/// state lasts a microsecond, and the samples of a proof are three hundred apart.
pub fn in_flight(world: &World, state: &State, on: usize) -> u64 {
    let under_way = |w: &usize| {
        matches!(state.phases[*w], Phase::InFlight | Phase::Completing(_) | Phase::LeavingPart(_))
    };
    (0..world.writes.len()).filter(|w| disk(world, *w) == on && under_way(w)).count() as u64
}

fn disk(world: &World, index: usize) -> usize {
    world.disk_of(world.writes[index].granules().start)
}

fn sectors(world: &World, index: usize) -> u8 {
    u8::try_from(world.writes[index].sectors()).unwrap()
}

/// Counts a request that has left the table; its parts do not count.
fn settle(world: &World, state: &mut State, entry: Entry) {
    if entry.part.is_none() {
        let write = usize::from(entry.write);
        let counts = &mut state.counts[disk(world, write)];
        counts.settled += 1;
        counts.settled_sectors += sectors(world, write);
    }
}

fn account(world: &World, state: &mut State, index: usize) {
    state.counts[disk(world, index)].stat_sectors += sectors(world, index);
}
