//! What writes, the device and the programs do, step by step: the rules of `blxrep-ebpf`.

use crate::search::Action;
use crate::state::{Phase, State};
use crate::world::{Mask, World};

/// Everything that the kernel's side may do next.
pub fn steps(world: &World, state: &State, next: &mut Vec<(Action, State)>) {
    for index in 0..world.writes.len() {
        match state.phases[index] {
            Phase::Waiting => issue(world, state, index, next),
            Phase::Marking(marked) => go_on_marking(world, state, index, marked, next),
            Phase::Leftover => settle_leftover(world, state, index, next),
            Phase::Entering => enter(world, state, index, next),
            Phase::InFlight => {
                land(world, state, index, next);
                complete(world, state, index, next);
            }
            Phase::Completing(marked) => go_on_completing(world, state, index, marked, next),
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
    let phase = match (marked + 1 < width(world, index), state.table[world.writes[index].key]) {
        (true, _) => Phase::Marking(marked + 1),
        (false, 0) => Phase::Entering,
        (false, _) => Phase::Leftover,
    };
    let mut state = step(state, index, phase);
    state.issued |= granule(world, index, marked);
    if world.prompt && phase == Phase::Entering {
        return enter(world, &state, index, next);
    }
    next.push((Action::MarkIssued(index), state));
}

fn settle_leftover(world: &World, state: &State, index: usize, next: &mut Vec<(Action, State)>) {
    let mut state = step(state, index, Phase::Entering);
    let leftover = usize::from(state.table[world.writes[index].key]) - 1;
    state.completed |= world.writes[leftover].mask();
    settle(world, &mut state, leftover);
    next.push((Action::SettleLeftover(index), state));
}

fn enter(world: &World, state: &State, index: usize, next: &mut Vec<(Action, State)>) {
    let mut state = step(state, index, Phase::InFlight);
    state.table[world.writes[index].key] = u8::try_from(index + 1).unwrap();
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
/// or counts an orphan.
fn go_on_completing(world: &World, state: &State, index: usize, marked: u8, next: &mut Vec<(Action, State)>) {
    if marked < width(world, index) {
        let mut state = step(state, index, Phase::Completing(marked + 1));
        state.completed |= granule(world, index, marked);
        next.push((Action::MarkCompleted(index), state));
        return;
    }
    let mut state = step(state, index, Phase::Done);
    let key = world.writes[index].key;
    match state.table[key] {
        0 => {
            let sectors = sectors(world, index);
            let counts = &mut state.counts[disk(world, index)];
            counts.orphans += 1;
            counts.orphan_sectors += sectors;
        }
        entry => {
            let held = usize::from(entry) - 1;
            state.completed |= world.writes[held].mask();
            state.table[key] = 0;
            settle(world, &mut state, held);
        }
    }
    account(world, &mut state, index);
    next.push((Action::Complete(index), state));
}

/// Takes out what is stale from user space: marked completed first.
pub fn retire(world: &World, state: &State, next: &mut Vec<(Action, State)>) {
    for (key, entry) in state.table.iter().enumerate().filter(|(_, entry)| **entry != 0) {
        let held = usize::from(*entry) - 1;
        // The tracker has waited long enough to know that no hook is at work on the entry.
        let busy = |w: &usize| matches!(state.phases[*w], Phase::Leftover | Phase::Entering);
        let reused = (0..world.writes.len()).any(|w| world.writes[w].key == key && busy(&w));
        if reused || state.phases[held] != Phase::Done || in_flight(world, state, disk(world, held)) != 0 {
            continue;
        }
        let mut state = state.clone();
        state.completed |= world.writes[held].mask();
        state.table[key] = 0;
        settle(world, &mut state, held);
        next.push((Action::Retire(held), state));
    }
}

/// Requests that the kernel has in flight on a disk. One that is completed and not yet accounted counts too: that
/// state lasts a microsecond, and the samples of a proof are three hundred apart.
pub fn in_flight(world: &World, state: &State, on: usize) -> u64 {
    let under_way = |w: &usize| matches!(state.phases[*w], Phase::InFlight | Phase::Completing(_));
    (0..world.writes.len()).filter(|w| disk(world, *w) == on && under_way(w)).count() as u64
}

fn disk(world: &World, index: usize) -> usize {
    world.disk_of(world.writes[index].granules().start)
}

fn sectors(world: &World, index: usize) -> u8 {
    u8::try_from(world.writes[index].sectors()).unwrap()
}

fn settle(world: &World, state: &mut State, index: usize) {
    let counts = &mut state.counts[disk(world, index)];
    counts.settled += 1;
    counts.settled_sectors += sectors(world, index);
}

fn account(world: &World, state: &mut State, index: usize) {
    state.counts[disk(world, index)].stat_sectors += sectors(world, index);
}
