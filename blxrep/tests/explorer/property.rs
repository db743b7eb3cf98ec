//! What must hold.

use crate::maps;
use crate::state::{Phase, Stage, State};
use crate::world::{PARTS, World};
use blxrep::engine::audit::Verdict;

/// Why a state is wrong.
pub fn broken(world: &World, state: &State) -> Option<String> {
    match state.agent.stage {
        Stage::Sealed if !state.agent.fuzzy => quiet_is_wrong(world, state),
        Stage::Idle => lost_for_ever(world, state),
        _ => None,
    }
}

/// A point that is labelled quiet: with T the latest issue among the visible writes, every write that was done before
/// T, or before the cut, is visible or overwritten by a later one that is.
fn quiet_is_wrong(world: &World, state: &State) -> Option<String> {
    let parts = 0..world.granules() * PARTS;
    let content: Vec<u8> = parts
        .map(|part| match &state.sent {
            Some(sent) if sent.carried >> (part / PARTS) & 1 != 0 => sent.content[part],
            _ => state.chain[part],
        })
        .collect();
    let visible = content.iter().filter(|write| **write != 0);
    let needed =
        visible.fold(state.agent.done_at_cut, |needed, write| needed | state.before[usize::from(*write) - 1]);
    for (index, write) in world.writes.iter().enumerate().filter(|(index, _)| needed >> index & 1 != 0) {
        let number = u8::try_from(index + 1).unwrap();
        let old = |part: &usize| state.position(*part, content[*part]) < state.position(*part, number);
        if let Some(part) = write.range().find(old) {
            return Some(format!("a quiet point holds {content:?}, which lacks W{number} on part {part}"));
        }
    }
    None
}

/// When all is still, one more point equals the disk: what differs is dirty, or the audit knows that something was
/// missed.
fn lost_for_ever(world: &World, state: &State) -> Option<String> {
    let still = |phase: &Phase| matches!(phase, Phase::Waiting | Phase::Done);
    if state.sent.is_some() || !state.phases.iter().all(still) {
        return None;
    }
    let dirty = state.issued | state.completed | state.pending | state.in_table(world);
    let differs =
        |part: &usize| state.chain[*part] != state.on_disk(*part) && dirty >> (part / PARTS) & 1 == 0;
    let part = (0..world.granules() * PARTS).find(differs)?;
    let disk = world.disk_of(part / PARTS);
    let verdict = maps::prove(&mut maps::audit_of(&state.base[disk]), &maps::sample(world, state, disk));
    let known = matches!(verdict, Verdict::Gap(_));
    (!known).then(|| {
        format!("part {part} holds W{}, and no later point will have it ({verdict:?})", state.on_disk(part))
    })
}
