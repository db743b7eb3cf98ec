//! A point among the others of its disk, so that one can go to the one before or after it from wherever one is.

use crate::api::types::PointRow;
use std::rc::Rc;

#[derive(Clone, Debug)]
pub struct Spot {
    /// The newest first; never empty.
    points: Rc<Vec<PointRow>>,
    at: usize,
}

impl Spot {
    /// `None` if there is no such point.
    #[must_use]
    pub fn new(points: &Rc<Vec<PointRow>>, at: usize) -> Option<Self> {
        points.get(at).map(|_| Self { points: Rc::clone(points), at })
    }

    #[must_use]
    pub fn point(&self) -> &PointRow {
        &self.points[self.at]
    }

    #[must_use]
    pub fn older(&self) -> Option<Self> {
        Self::new(&self.points, self.at + 1)
    }

    #[must_use]
    pub fn newer(&self) -> Option<Self> {
        Self::new(&self.points, self.at.checked_sub(1)?)
    }

    /// The newest point, or, if this is it, the one before it: what there is to compare this one with.
    #[must_use]
    pub fn other(&self) -> Option<Self> {
        if self.at > 0 { Self::new(&self.points, 0) } else { self.older() }
    }

    /// The older one of two first.
    #[must_use]
    pub fn in_order(self, other: Self) -> (Self, Self) {
        if self.point().cut <= other.point().cut { (self, other) } else { (other, self) }
    }
}
