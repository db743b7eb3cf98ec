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
//! `BLXREP_SOAK=1` looks at more than ten million states.

mod agent;
mod kernel;
mod maps;
mod mutation;
mod property;
mod search;
mod state;
mod world;

use agent::Model;
use mutation::Mutation;
use search::explore;
use world::{World, Write};

const BASIS: World =
    World { name: "", disks: &[2], writes: &[], losses: 0, breaks: 0, points: 1, rounds: 2, retires: false };

const W: [World; 6] = [
    World {
        name: "a chain over two disks",
        disks: &[1, 1],
        writes: &[Write::to(0, 1, 0), Write::to(2, 1, 1).then(0)],
        losses: 2,
        breaks: 1,
        points: 2,
        ..BASIS
    },
    World {
        name: "an address used again",
        writes: &[Write::to(0, 1, 0), Write::to(2, 1, 1).then(0), Write::to(3, 1, 0).then(0)],
        losses: 1,
        points: 2,
        ..BASIS
    },
    World {
        name: "rewritten while it is read",
        writes: &[Write::to(2, 1, 0), Write::to(0, 1, 1).then(0), Write::to(2, 1, 2).then(1)],
        rounds: 3,
        points: 2,
        ..BASIS
    },
    World {
        name: "torn over two granules",
        writes: &[Write::to(1, 2, 0), Write::to(0, 1, 1).then(0)],
        losses: 1,
        ..BASIS
    },
    World {
        name: "killed, and killed again",
        disks: &[1],
        writes: &[Write::to(0, 1, 0), Write::to(1, 1, 0).then(0)],
        losses: 2,
        breaks: 2,
        points: 3,
        retires: true,
        ..BASIS
    },
    World {
        name: "two granules of each of two disks",
        disks: &[2, 2],
        writes: &[Write::to(1, 2, 0), Write::to(4, 1, 1).then(0), Write::to(2, 1, 2).then(1)],
        losses: 1,
        ..BASIS
    },
];

#[test]
fn probe() {
    let only: Option<usize> = std::env::var("ONLY").ok().map(|v| v.parse().unwrap());
    for world in W.into_iter().enumerate().filter(|(i, _)| only.is_none_or(|o| o == *i)).map(|(_, w)| w) {
        let t = std::time::Instant::now();
        let f = explore(&Model::new(world, None), 2_500_000);
        println!("{}: {} exhausted {} {:?}", world.name, f.states, f.exhausted, t.elapsed());
        if let Some(c) = f.counterexample {
            println!("{c}");
        }
    }
    for m in Mutation::ALL {
        for world in W {
            let t = std::time::Instant::now();
            let f = explore(&Model::new(world, Some(m)), 600_000);
            println!("{m:?} {}: {} exhausted {} {:?} {}", world.name, f.states, f.exhausted, t.elapsed(), f.counterexample.is_some());
            if let Some(c) = f.counterexample {
                println!("{c}");
                break;
            }
        }
    }
}
