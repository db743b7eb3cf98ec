//! What an event changes, and what is to be done about it. Pure.

use super::ask::{Answer, Ask, Reply, Ticket};
use super::key::Key;
use super::list::List;
use super::model::World;
use super::page::{Order, Page, Question};
use super::pages::{Actions, Agents, Mounts, Sheet, Topic};
use super::theme::Theme;
use crate::api::events;
use crate::model::action::{ActionKind, ActionState};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Pages on top of each other, at most: somebody leans on a key.
const MAX_PAGES: usize = 32;
/// Seconds between two looks at a dispatcher that tells what happens, and at one that does not.
const TOLD: i64 = 5;
const UNTOLD: i64 = 2;

/// What happens to the screen.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time goes on.
    Tick(Timestamp),
    Key(Key),
    /// The terminal has this many columns and lines.
    Resized(u16, u16),
    Answer(Ticket, Reply),
    /// The dispatcher said that something happened.
    Happened(events::Event),
    /// Whether it will say so.
    Told(bool),
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ends in `Event::Answer`.
    Ask(Ticket, Ask),
    /// Nobody waits for the answer any more.
    Forget(Ticket),
    /// Draw everything anew: something else has written to the terminal.
    Redraw,
    Quit,
}

/// What lies over the page.
#[derive(Clone, Debug)]
pub enum Overlay {
    Help(List),
    Question(Question),
}

/// A page of the stack.
#[derive(Debug)]
struct Layer {
    id: u64,
    page: Box<dyn Page>,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// The screen as a whole.
    World,
    /// A page, to show it.
    Load(u64),
    /// A page, to have something done.
    Do(u64),
}

/// Everything that a screen is drawn from.
#[derive(Debug)]
pub struct Model {
    pub world: World,
    /// The first page, which is never left.
    base: Layer,
    /// What was gone into.
    above: Vec<Layer>,
    pub overlay: Option<Overlay>,
    /// Told until the next key.
    pub notice: Option<String>,
    waiting: BTreeMap<Ticket, Asker>,
    next: u64,
    /// When everything was asked for last; `None` if it shall be at once.
    asked: Option<Timestamp>,
}

impl Model {
    #[must_use]
    pub fn new(socket: String, now: Timestamp, theme: Theme) -> Self {
        Self {
            world: World::new(socket, now, theme),
            base: Layer { id: 0, page: Box::new(Agents::default()) },
            above: Vec::new(),
            overlay: None,
            notice: None,
            waiting: BTreeMap::new(),
            next: 1,
            asked: None,
        }
    }

    /// The page that is seen.
    #[must_use]
    pub fn page(&self) -> &dyn Page {
        &*self.above.last().unwrap_or(&self.base).page
    }

    /// Where one is.
    #[must_use]
    pub fn crumbs(&self) -> Vec<String> {
        std::iter::once(&self.base).chain(&self.above).map(|layer| layer.page.crumb(&self.world)).collect()
    }

    /// Whether something was asked that is not answered yet, other than how things are.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.waiting.values().any(|asker| *asker != Asker::World)
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn ask(&mut self, asker: Asker, ask: Ask) -> Effect {
        let ticket = Ticket(self.id());
        self.waiting.insert(ticket, asker);
        Effect::Ask(ticket, ask)
    }

    fn forget(&mut self, whom: impl Fn(Asker) -> bool) -> Vec<Effect> {
        let gone: Vec<Ticket> =
            self.waiting.iter().filter(|(_, asker)| whom(**asker)).map(|(ticket, _)| *ticket).collect();
        gone.into_iter()
            .map(|ticket| {
                self.waiting.remove(&ticket);
                Effect::Forget(ticket)
            })
            .collect()
    }

    fn layers(&mut self) -> impl Iterator<Item = &mut Layer> {
        std::iter::once(&mut self.base).chain(&mut self.above)
    }

    /// Calls a page, if it is still there.
    fn call<T>(&mut self, id: u64, call: impl FnOnce(&mut dyn Page, &World) -> T) -> Option<T> {
        let mut layers = std::iter::once(&mut self.base).chain(&mut self.above);
        layers.find(|layer| layer.id == id).map(|layer| call(&mut *layer.page, &self.world))
    }

    /// The page on top.
    fn top(&self) -> u64 {
        self.above.last().unwrap_or(&self.base).id
    }
}

/// Applies one event.
#[must_use]
pub fn update(model: &mut Model, event: Event) -> Vec<Effect> {
    match event {
        Event::Tick(now) => {
            model.world.now = now;
            look(model)
        }
        Event::Key(key) => press(model, key),
        Event::Resized(width, height) => {
            model.world.size = (width, height);
            refresh(model)
        }
        Event::Answer(ticket, reply) => answer(model, ticket, reply),
        Event::Happened(event) => {
            // Everything is asked for with the next tick: however much happens, once a second at most.
            model.asked = None;
            each(model, |page, world| page.happened(&event, world))
        }
        Event::Told(told) => {
            model.world.told = told;
            model.asked = None;
            Vec::new()
        }
    }
}

/// Asks how things are, if it is time to. A dispatcher that answers slowly is asked less often.
fn look(model: &mut Model) -> Vec<Effect> {
    if model.waiting.values().any(|asker| *asker == Asker::World) {
        return Vec::new();
    }
    let moving = |kind, state| state == ActionState::Running && kind != ActionKind::Live;
    let moves = model.world.actions().iter().any(|row| moving(row.kind, row.state));
    let every = if moves {
        1
    } else if model.world.told {
        TOLD
    } else {
        UNTOLD
    };
    let now = model.world.now;
    if model.asked.is_some_and(|at| (0..every).contains(&(now.as_second() - at.as_second()))) {
        return Vec::new();
    }
    model.asked = Some(now);
    vec![model.ask(Asker::World, Ask::Overview)]
}

/// Pages take in what the world is like now.
fn refresh(model: &mut Model) -> Vec<Effect> {
    each(model, |page, world| page.refresh(world))
}

/// Asks every page what it wants.
fn each(model: &mut Model, call: impl Fn(&mut dyn Page, &World) -> Vec<Order>) -> Vec<Effect> {
    let ids: Vec<u64> = model.layers().map(|layer| layer.id).collect();
    let mut effects = Vec::new();
    for id in ids {
        let orders = model.call(id, &call).unwrap_or_default();
        effects.extend(carry_out(model, id, orders));
    }
    effects
}

fn answer(model: &mut Model, ticket: Ticket, reply: Reply) -> Vec<Effect> {
    match (model.waiting.remove(&ticket), reply) {
        (Some(Asker::World), Ok(Answer::Overview(data))) => {
            let lost = model.world.trouble.is_some();
            model.world.learn(*data);
            let mut effects = refresh(model);
            // What the page on top asked for meanwhile was not answered either.
            if lost {
                effects.extend(reload(model));
            }
            effects
        }
        (Some(Asker::World), Err(failure)) => {
            model.world.trouble = Some(failure.text);
            refresh(model)
        }
        (Some(Asker::Load(id) | Asker::Do(id)), reply) => {
            // What was begun or ended is seen at once.
            model.asked = None;
            let failed = reply.as_ref().err().map(|failure| failure.text.clone());
            match model.call(id, |page, world| page.answer(reply, world)) {
                Some(orders) => carry_out(model, id, orders),
                // Whoever had it done has left, and shall know nevertheless.
                None => {
                    model.notice = failed.or(model.notice.take());
                    Vec::new()
                }
            }
        }
        (Some(Asker::World), Ok(_)) | (None, _) => Vec::new(),
    }
}

/// The page on top asks again for what it shows.
fn reload(model: &mut Model) -> Vec<Effect> {
    let id = model.top();
    let orders = model.call(id, |page, world| page.load(world)).unwrap_or_default();
    carry_out(model, id, orders)
}

fn press(model: &mut Model, key: Key) -> Vec<Effect> {
    if key == Key::Control('c') {
        return vec![Effect::Quit];
    }
    if key == Key::Control('l') {
        return vec![Effect::Redraw];
    }
    model.notice = None;
    if let Some(overlay) = model.overlay.take() {
        return press_overlay(model, overlay, key);
    }
    let id = model.top();
    let typing = model.page().is_typing();
    match model.call(id, |page, world| page.press(key, world)).flatten() {
        Some(orders) => carry_out(model, id, orders),
        None if typing => Vec::new(),
        None => press_anywhere(model, id, key),
    }
}

/// Keys that mean the same on every page.
fn press_anywhere(model: &mut Model, id: u64, key: Key) -> Vec<Effect> {
    match key {
        Key::Char('q') => return vec![Effect::Quit],
        Key::Char('?') => model.overlay = Some(Overlay::Help(List::default())),
        Key::Esc if !model.above.is_empty() => return carry_out(model, id, vec![Order::Back]),
        Key::Esc => model.notice = Some("This is where it begins; q leaves.".to_owned()),
        Key::Char('a') => return go(model, id, Box::new(Actions::default())),
        Key::Char('M') => return go(model, id, Box::new(Mounts::default())),
        Key::Char('u') => return go(model, id, Box::new(Sheet::new(Topic::Usage))),
        Key::Control('r') => {
            model.asked = None;
            let mut effects = look(model);
            effects.extend(reload(model));
            return effects;
        }
        _ => {}
    }
    Vec::new()
}

/// Goes into a page, unless it is that one already.
fn go(model: &mut Model, id: u64, page: Box<dyn Page>) -> Vec<Effect> {
    if model.page().name() == page.name() {
        Vec::new()
    } else {
        carry_out(model, id, vec![Order::Open(page)])
    }
}

fn press_overlay(model: &mut Model, overlay: Overlay, key: Key) -> Vec<Effect> {
    match overlay {
        Overlay::Help(mut list) => {
            let lines = super::frame::help_lines(model);
            let height = super::frame::help_height(model);
            // A page of the help is scrolled as a whole: what is selected is its last line.
            let at = list.at().max(height.saturating_sub(1));
            list.select(at, lines, height);
            if list.press(key, lines, height) {
                model.overlay = Some(Overlay::Help(list));
            } else if key == Key::Char('q') {
                return vec![Effect::Quit];
            }
        }
        Overlay::Question(question) => match key {
            Key::Char('y') => {
                let id = model.top();
                return carry_out(model, id, vec![Order::Do(question.ask)]);
            }
            Key::Char('n') | Key::Esc => model.notice = Some("Nothing was done.".to_owned()),
            // Anything else is no answer.
            _ => model.overlay = Some(Overlay::Question(question)),
        },
    }
    Vec::new()
}

/// Does what a page wants.
fn carry_out(model: &mut Model, id: u64, orders: Vec<Order>) -> Vec<Effect> {
    let mut effects = Vec::new();
    for order in orders {
        match order {
            Order::Open(page) => effects.extend(open(model, page)),
            Order::Replace(page) => {
                effects.extend(leave(model, id));
                effects.extend(open(model, page));
            }
            Order::Back => effects.extend(leave(model, id)),
            Order::Load(ask) => {
                effects.extend(model.forget(|asker| asker == Asker::Load(id)));
                effects.push(model.ask(Asker::Load(id), ask));
            }
            Order::Do(ask) => effects.push(model.ask(Asker::Do(id), ask)),
            Order::Confirm(question) => model.overlay = Some(Overlay::Question(question)),
            Order::Say(text) => model.notice = Some(text),
        }
    }
    effects
}

fn open(model: &mut Model, mut page: Box<dyn Page>) -> Vec<Effect> {
    if model.above.len() >= MAX_PAGES {
        model.notice = Some("Too many pages are open; Esc goes back.".to_owned());
        return Vec::new();
    }
    let id = model.id();
    let mut orders = page.refresh(&model.world);
    orders.extend(page.load(&model.world));
    model.above.push(Layer { id, page });
    carry_out(model, id, orders)
}

/// What a page has asked for is of no interest any more; what it has told the dispatcher to do goes on.
fn leave(model: &mut Model, id: u64) -> Vec<Effect> {
    model.above.retain(|layer| layer.id != id);
    let mut effects = model.forget(|asker| asker == Asker::Load(id));
    effects.extend(refresh(model));
    effects
}
