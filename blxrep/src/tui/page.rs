//! What a page is: one view of the stack that Enter goes into and Esc comes back from. Pages are pure: they are given
//! keys and answers, and say what is to be done.

use super::ask::{Ask, Reply};
use super::key::{Hint, Key};
use super::model::World;
use super::prompt::Prompt;
use crate::api::events;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::fmt;

/// What a page wants to be done.
#[derive(Debug)]
pub enum Order {
    /// Go into another page.
    Open(Box<dyn Page>),
    /// Go into another page, in the place of this one.
    Replace(Box<dyn Page>),
    /// Leave this page.
    Back,
    /// Ask for what the page shows; what it had asked for so before is of no interest any more.
    Load(Ask),
    /// Have something done.
    Do(Ask),
    /// Have something done if a person says yes.
    Confirm(Question),
    /// Tell a person something, until the next key.
    Say(String),
}

/// A question to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub text: String,
    /// What is done then.
    pub ask: Ask,
}

/// One view.
pub trait Page: fmt::Debug {
    /// What kind of page it is.
    fn name(&self) -> &'static str;

    /// Where one is, for the line at the top.
    fn crumb(&self, world: &World) -> String;

    /// Keys of this page.
    fn keys(&self) -> &'static [Hint];

    /// It is shown for the first time, or again after a lost connection: asks for what it needs.
    fn load(&mut self, _world: &World) -> Vec<Order> {
        Vec::new()
    }

    /// A key; `None` if it means nothing here.
    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>>;

    /// An answer to what this page asked.
    fn answer(&mut self, _reply: Reply, _world: &World) -> Vec<Order> {
        Vec::new()
    }

    /// The world has changed: rows went or came, the terminal has another size.
    fn refresh(&mut self, _world: &World) -> Vec<Order> {
        Vec::new()
    }

    /// Something happened that the page may want to ask about.
    fn happened(&mut self, _event: &events::Event, _world: &World) -> Vec<Order> {
        Vec::new()
    }

    /// A text that a person types now; all keys are its.
    fn prompt(&self) -> Option<&Prompt> {
        None
    }

    /// Whether all keys are letters that a person types.
    fn is_typing(&self) -> bool {
        self.prompt().is_some()
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer);
}
