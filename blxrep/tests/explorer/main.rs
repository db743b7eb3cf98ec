//! A small model checker for the cut: every interleaving of a few writes, the hooks, the agent, its death and the
//! dispatcher, over a few granules.
//!
//! The agent's side calls the functions that the agent calls: the steps of the sweep, the forming of the dirty set, the
//! validation, the plan of the rounds, the acknowledgement, the audit and its write-off. What surrounds them (hooks,
//! table, device, kernel's account, dispatcher) is a model, in the files of this folder:
//!
//! - [`world`]: what there is, and how much may go wrong
//! - [`state`]: one state of everything
//! - [`kernel`]: writes, hooks, device
//! - [`maps`]: the engine's view of a state
//! - [`agent`]: agent and dispatcher
//! - [`mutation`]: simplifications that must be found out
//! - [`property`]: what must hold
//! - [`search`]: the search
//!
//! A world is small, and looked at to the end: the counterexamples of all known simplifications need no more than
//! two disks, three writes, two lost events and two points. `BLXREP_SOAK=1` adds larger worlds: more than ten million
//! states in all.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod agent;
mod kernel;
mod maps;
mod mutation;
mod property;
mod search;
mod state;
mod world;

use agent::Model;
use mutation::Mutation::{self, *};
use search::explore;
use world::{World, Write};

const BASIS: World = World {
    name: "",
    disks: &[2],
    writes: &[],
    losses: 0,
    breaks: 0,
    points: 1,
    rescans: 0,
    rounds: 2,
    retires: false,
    prompt: false,
    drafts: false,
};

const CHAIN: World = World {
    name: "a chain over two disks",
    disks: &[1, 1],
    writes: &[Write::to(0, 1, 0), Write::to(2, 1, 1).then(0)],
    losses: 2,
    breaks: 1,
    points: 2,
    ..BASIS
};

const REUSED: World = World {
    name: "an address used again",
    writes: &[Write::to(0, 1, 0), Write::to(2, 1, 0).then(0)],
    losses: 2,
    breaks: 1,
    points: 2,
    ..BASIS
};

const REWRITTEN: World = World {
    name: "rewritten while it is read",
    writes: &[Write::to(2, 1, 0), Write::to(0, 1, 1).then(0), Write::to(2, 1, 2).then(1)],
    rounds: 3,
    points: 2,
    ..BASIS
};

const TORN: World = World {
    name: "torn over two granules",
    writes: &[Write::to(1, 2, 0), Write::to(0, 1, 1).then(0)],
    losses: 1,
    ..BASIS
};

const KILLED: World = World {
    name: "killed, and killed again",
    disks: &[1],
    writes: &[Write::to(0, 1, 0), Write::to(1, 1, 0).then(0)],
    losses: 2,
    breaks: 2,
    points: 3,
    retires: true,
    ..BASIS
};

const FOUR: World = World {
    name: "two granules of each of two disks",
    disks: &[2, 2],
    writes: &[Write::to(1, 2, 0), Write::to(4, 1, 1).then(0), Write::to(2, 1, 2).then(1)],
    losses: 1,
    ..BASIS
};

const PARTS: World = World {
    name: "a discard in parts",
    writes: &[Write::to(1, 2, 0).scattered(), Write::to(0, 1, 0).then(0)],
    losses: 2,
    points: 2,
    retires: true,
    ..BASIS
};

const COMPARED: World = World {
    name: "compared with the newest point",
    writes: &[Write::to(1, 2, 0), Write::to(0, 1, 0).then(0)],
    losses: 2,
    breaks: 1,
    rescans: 2,
    ..BASIS
};

const CONTINUED: World = World {
    name: "a point that goes on after breaks",
    disks: &[1, 1],
    writes: &[Write::to(0, 1, 0), Write::to(2, 1, 1).then(0), Write::to(1, 1, 0).then(1)],
    losses: 1,
    breaks: 2,
    drafts: true,
    ..BASIS
};

const WORLDS: [World; 9] = [CHAIN, REUSED, REWRITTEN, TORN, KILLED, FOUR, PARTS, COMPARED, CONTINUED];

/// Points of one round, made of what the table alone knows.
const ONE_ROUND: World = World {
    name: "one round per point",
    writes: &[Write::to(0, 1, 0), Write::to(2, 1, 0).then(0)],
    losses: 1,
    points: 2,
    rounds: 1,
    prompt: true,
    ..BASIS
};

/// Larger worlds.
const LARGE: [World; 2] = [
    World {
        name: "an address used again, and another not",
        writes: &[Write::to(0, 1, 0), Write::to(2, 1, 1).then(0), Write::to(3, 1, 0).then(0)],
        ..REUSED
    },
    World { name: "two granules of each of two disks, twice", points: 2, ..FOUR },
];

/// States of one search at most.
const LIMIT: usize = 3_000_000;
const SOAK_LIMIT: usize = 20_000_000;

fn soak() -> bool {
    std::env::var_os("BLXREP_SOAK").is_some()
}

/// Looks at a world to its end, which must hold no counterexample. Returns how many states it has.
fn hold(world: World, mutations: &'static [Mutation], limit: usize) -> usize {
    let found = explore(&Model::new(world, mutations), limit);
    if let Some(counterexample) = found.counterexample {
        panic!("{}, with {mutations:?}:\n{counterexample}", world.name);
    }
    assert!(found.exhausted, "{}, with {mutations:?}: more than {limit} states", world.name);
    println!("{:>10} states, no counterexample: {} {mutations:?}", found.states, world.name);
    found.states
}

/// Looks for a counterexample and prints it.
fn fall(world: World, mutations: &'static [Mutation]) {
    let found = explore(&Model::new(world, mutations), LIMIT);
    let Some(counterexample) = found.counterexample else {
        panic!("{}, with {mutations:?}: no counterexample in {} states", world.name, found.states)
    };
    println!("{mutations:?}: {} states, {}:\n{counterexample}\n", found.states, world.name);
}

#[test]
fn the_cut_has_no_counterexample() {
    let mut states: usize = WORLDS.into_iter().map(|world| hold(world, &[], LIMIT)).sum();
    if soak() {
        states += LARGE.into_iter().map(|world| hold(world, &[], SOAK_LIMIT)).sum::<usize>();
        assert!(states >= 10_000_000);
    }
    println!("{states} states");
    assert!(states >= 1_000_000);
}

#[test]
fn every_simplification_has_a_counterexample() {
    fall(CHAIN, &[SweepsSwapped]);
    fall(REUSED, &[NoTable]);
    fall(KILLED, &[TableAfterCompleted]);
    fall(CHAIN, &[DiskByDisk]);
    fall(CHAIN, &[NoValidation]);
    fall(REWRITTEN, &[ValidationBeforeReads]);
    fall(CHAIN, &[ContaminatedAlone]);
    fall(CHAIN, &[ClearBeforeOr]);
    fall(KILLED, &[OldAcknowledgement]);
    fall(CHAIN, &[SweepOutlivesItsCut]);
    fall(CHAIN, &[WrittenOffAndAskedAgain]);
    fall(CHAIN, &[NoAudit]);
    fall(CHAIN, &[IssueIgnored]);
    fall(CHAIN, &[CompletionIgnored]);
    fall(CHAIN, &[ReadBeforeSweep]);
    // A comparison is a point whose content is at the dispatcher already: the same order, the same lease.
    fall(World { points: 0, ..COMPARED }, &[ReadBeforeSweep]);
    fall(COMPARED, &[SweepOutlivesItsCut]);
    fall(CONTINUED, &[SweptBeforeItGoesOn]);
    fall(CONTINUED, &[NoTable]);
}

/// Three rules guard against what the table guards against, too. None of them is missed while the table is walked,
/// and the table is not missed (in this world) while they are kept; without both the point is wrong.
#[test]
fn what_the_table_guards_is_guarded_twice() {
    const PAIRS: [[&[Mutation]; 2]; 3] = [
        [&[NoSecondLook], &[NoSecondLook, NoTable]],
        [&[ValidationClears], &[ValidationClears, NoTable]],
        [&[AcknowledgeInFlight], &[AcknowledgeInFlight, NoTable]],
    ];
    hold(ONE_ROUND, &[NoTable], LIMIT);
    for [alone, without_table] in PAIRS {
        hold(ONE_ROUND, alone, LIMIT);
        fall(ONE_ROUND, without_table);
    }
}

/// What the completion hook saw stays dirty until it is published, so a shortfall may be forgotten earlier than the
/// agent does without a wrong point. The agent keeps it until a published point has said that events were lost.
#[test]
fn an_early_write_off_alone_makes_no_wrong_point() {
    hold(CHAIN, &[WrittenOffWhenMeasured], LIMIT);
    hold(KILLED, &[WrittenOffWhenMeasured], LIMIT);
}
