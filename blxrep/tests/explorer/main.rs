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

const W: [World; 1] = [World {
    name: "two disks, a chain",
    disks: &[1, 1],
    writes: &[Write::to(0, 1, 0), Write::to(2, 1, 1).then(0)],
    losses: 1,
    breaks: 1,
    points: 2,
    rounds: 2,
    retires: false,
}];

#[test]
fn probe() {
    for world in W {
        let t = std::time::Instant::now();
        let f = explore(&Model::new(world, None), 3_000_000);
        println!("{}: {} exhausted {} {:?}", world.name, f.states, f.exhausted, t.elapsed());
        if let Some(c) = f.counterexample {
            println!("{c}");
        }
    }
    for m in Mutation::ALL {
        for world in W {
            let t = std::time::Instant::now();
            let f = explore(&Model::new(world, Some(m)), 1_000_000);
            println!("{m:?} {}: {} exhausted {} {:?}", world.name, f.states, f.exhausted, t.elapsed());
            if let Some(c) = f.counterexample {
                println!("{c}");
            }
        }
    }
}
