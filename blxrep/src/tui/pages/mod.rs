//! The pages, in the order in which one goes into them.

mod actions;
mod agents;
mod changes;
mod contents;
mod disks;
mod export;
mod files;
mod finds;
mod form;
mod found;
mod mounts;
mod picked;
mod points;
mod policy;
mod restore;
mod rows;
mod sheet;
mod spot;

pub use actions::Actions;
pub use agents::Agents;
pub use changes::Changes;
pub use contents::Contents;
pub use disks::Disks;
pub use export::Export;
pub use files::Files;
pub use found::Found;
pub use mounts::Mounts;
pub use picked::Picked;
pub use points::Points;
pub use policy::Policy;
pub use restore::{Restore, What};
pub use sheet::{Sheet, Topic};

use super::key::{Hint, hint};
use super::page::Order;
use ratatui::layout::Rect;

/// Lines for what is said of the selected row.
const DETAIL_LINES: u16 = 3;

const POLICY: Hint = hint("p", "policy", "what is in force: schedule, groups, how long points stay");
const DETAILS: Hint = hint("d", "details", "everything that is known of the selected row");

/// A list and, below it, what is said of its selected row.
fn split(area: Rect) -> (Rect, Rect) {
    let detail = DETAIL_LINES.min(area.height / 3);
    let list = Rect { height: area.height - detail, ..area };
    (list, Rect { y: list.bottom(), height: detail, ..area })
}

/// Rows of a table that are seen in an area: one line is its header.
fn rows_in(area: Rect) -> usize {
    usize::from(area.height.saturating_sub(1))
}

/// Going into a page.
fn open(page: impl super::page::Page + 'static) -> Option<Vec<Order>> {
    Some(vec![Order::Open(Box::new(page))])
}

/// A key that means something on this page, but nothing now.
fn nothing() -> Option<Vec<Order>> {
    Some(Vec::new())
}
