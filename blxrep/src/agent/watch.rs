//! What changed on a disk while it was compared with its newest point beside the cuts.

use crate::model::granules::GranuleSet;
use crate::model::ids::ActionId;
use std::collections::BTreeMap;

/// The comparisons of one disk that go on beside its cuts.
#[derive(Debug, Default)]
pub struct Watches(BTreeMap<ActionId, Watch>);

#[derive(Debug, Default)]
struct Watch {
    /// What points carried since it began.
    carried: GranuleSet,
    /// Why that is not all that changed.
    spoiled: Option<String>,
}

impl Watches {
    /// From here on, what points carry is remembered for the action.
    pub fn begin(&mut self, action: ActionId) {
        self.0.insert(action, Watch::default());
    }

    /// The action does not want to know what changed any more.
    pub fn forget(&mut self, action: ActionId) {
        self.0.remove(&action);
    }

    /// A point that carries these granules is published.
    pub fn carried(&mut self, granules: &GranuleSet) {
        self.0.values_mut().for_each(|watch| watch.carried.union_with(granules));
    }

    /// Changes were missed: what is remembered says nothing of what changed, also when points are proven again.
    pub fn spoil(&mut self, reason: &str) {
        for watch in self.0.values_mut() {
            watch.spoiled.get_or_insert_with(|| reason.to_owned());
        }
    }

    /// What points carried since the action's watch began, or why that is not all. Ends the watch.
    pub fn end(&mut self, action: ActionId) -> Result<GranuleSet, String> {
        let watch = self.0.remove(&action).unwrap_or_default();
        watch.spoiled.map_or(Ok(watch.carried), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(granules: &[u32]) -> GranuleSet {
        granules.iter().copied().collect()
    }

    #[test]
    fn each_action_knows_what_was_carried_since_it_began() {
        let (early, late) = (ActionId(1), ActionId(2));
        let mut watches = Watches::default();
        watches.begin(early);
        watches.carried(&set(&[1, 2]));
        watches.begin(late);
        watches.carried(&set(&[3]));
        assert_eq!(watches.end(early), Ok(set(&[1, 2, 3])));
        assert_eq!(watches.end(late), Ok(set(&[3])));
    }

    #[test]
    fn what_was_missed_spoils_those_that_run_whatever_is_published_later() {
        let (early, late) = (ActionId(1), ActionId(2));
        let mut watches = Watches::default();
        watches.begin(early);
        watches.spoil("a write that neither hook saw");
        watches.spoil("the pins were removed");
        // The rescan, and the point that makes coverage whole again.
        watches.carried(&set(&[7]));
        watches.begin(late);
        assert_eq!(watches.end(early), Err("a write that neither hook saw".to_owned()));
        assert_eq!(watches.end(late), Ok(set(&[])));
    }
}
