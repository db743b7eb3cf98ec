//! Lists in pages: as many items as were asked for, and where the next ones begin.

use super::error::{ApiError, Result};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Items of an answer where nothing is said, and at most.
pub const DEFAULT_LIMIT: usize = 200;
pub const MAX_LIMIT: usize = 1000;

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Ask for `after` this to get what follows, which may be nothing. `null` at the end.
    pub next: Option<String>,
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub limit: usize,
    /// What an answer had as its `next`.
    pub after: Option<String>,
}

/// How many items an answer has: as many as were asked for, within what is possible.
pub fn limit(asked: Option<u32>) -> Result<usize> {
    within("limit", asked.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
}

/// A number of items that one answer can have.
pub fn within(name: &str, count: usize) -> Result<usize> {
    if (1..=MAX_LIMIT).contains(&count) {
        return Ok(count);
    }
    Err(ApiError::invalid(format!("`{name}` is {count}: give 1 to {MAX_LIMIT}")))
}

/// An `after` that no answer can have had.
pub fn strange_cursor(why: &dyn std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("`after` is nothing that an answer had as its `next`: {why}"))
}

impl<T> Page<T> {
    /// A part of a list that is in memory as a whole, ordered by the keys of its items, which name them.
    pub fn of(rows: Vec<T>, key: impl Fn(&T) -> String, window: &Window) -> Self {
        let mut rows: Vec<(String, T)> = rows.into_iter().map(|row| (key(&row), row)).collect();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        let first = rows.partition_point(|(key, _)| window.after.as_ref().is_some_and(|after| key <= after));
        let more = rows.len() - first > window.limit;
        let (mut last, mut items) = (None, Vec::new());
        for (key, row) in rows.into_iter().skip(first).take(window.limit) {
            last = Some(key);
            items.push(row);
        }
        Self { items, next: last.filter(|_| more) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_make_up_the_list(rows in prop::collection::btree_set("[a-c ]{1,3}", 0..30), limit in 1usize..9) {
            let (mut after, mut found) = (None, Vec::new());
            loop {
                let window = Window { limit, after };
                let page = Page::of(rows.iter().rev().cloned().collect(), String::clone, &window);
                prop_assert!(page.items.len() <= limit);
                found.extend(page.items);
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            prop_assert_eq!(found, rows.into_iter().collect::<Vec<_>>());
        }
    }
}
