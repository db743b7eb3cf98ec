//! Restores that the dispatcher ordered and that have not ended: each is made by one task at a time.

use crate::model::ids::ActionId;
use crate::model::restoration::Restoration;
use std::collections::BTreeMap;

/// Restores at the same time; the dispatcher keeps no more open for all its agents.
const MAX_ORDERS: usize = 256;

/// What the dispatcher wants restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub action: ActionId,
    pub restoration: Restoration,
    /// An earlier attempt, maybe of an earlier process, may have written something.
    pub touched: bool,
}

/// How the task of a restore ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The dispatcher has kept that it is done.
    Done,
    /// The dispatcher wants it no more, or not now.
    Held,
    /// It cannot be done, for this reason.
    Failed(String),
}

/// What to do about an order.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Begin(Order),
    /// A task is at it. What it was ordered for may be held this moment: then it begins anew.
    Noted,
    TooMany,
}

/// Restores that have not ended, with what was ordered of them again while their tasks were at it.
#[derive(Debug, Default)]
pub struct Orders(BTreeMap<ActionId, Option<Order>>);

impl Orders {
    /// Takes in an order.
    pub fn take(&mut self, order: Order) -> Answer {
        if let Some(again) = self.0.get_mut(&order.action) {
            *again = Some(order);
            return Answer::Noted;
        }
        if self.0.len() >= MAX_ORDERS {
            return Answer::TooMany;
        }
        self.0.insert(order.action, None);
        Answer::Begin(order)
    }

    /// The task has ended. Returns the order that came while it was being held: for that one it begins anew.
    pub fn ended(&mut self, action: ActionId, ended: &Ended) -> Option<Order> {
        let again = self.0.remove(&action).flatten().filter(|_| *ended == Ended::Held)?;
        self.0.insert(action, None);
        Some(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::PointId;
    use crate::model::restoration::{Conflict, FilesTarget, Target};

    fn order(action: u64, touched: bool) -> Order {
        let target = FilesTarget { folder: "/x".to_owned(), conflict: Conflict::Skip, dry_run: false };
        let restoration = Restoration { point: PointId(1), target: Target::Files(target), agreed: None };
        Order { action: ActionId(action), restoration, touched }
    }

    #[test]
    fn what_is_ordered_while_it_is_being_held_begins_anew() {
        let mut orders = Orders::default();
        assert_eq!(orders.take(order(1, false)), Answer::Begin(order(1, false)));
        assert_eq!(orders.take(order(1, true)), Answer::Noted, "paused and resumed at once");
        assert_eq!(orders.ended(ActionId(1), &Ended::Held), Some(order(1, true)));
        assert_eq!(orders.ended(ActionId(1), &Ended::Held), None, "once for each order");
        assert_eq!(orders.take(order(1, true)), Answer::Begin(order(1, true)));
    }

    #[test]
    fn what_has_ended_otherwise_does_not_begin_anew() {
        for ended in [Ended::Done, Ended::Failed("no".to_owned())] {
            let mut orders = Orders::default();
            orders.take(order(1, false));
            orders.take(order(1, false));
            assert_eq!(orders.ended(ActionId(1), &ended), None);
        }
    }

    #[test]
    fn there_is_a_bound() {
        let mut orders = Orders::default();
        for action in 0..MAX_ORDERS as u64 {
            assert!(matches!(orders.take(order(action, false)), Answer::Begin(_)));
        }
        assert_eq!(orders.take(order(1 << 20, false)), Answer::TooMany);
    }
}
