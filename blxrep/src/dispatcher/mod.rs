//! The dispatcher: takes what agents send, publishes recovery points, and answers people.
//!
//! ```text
//! listener -> greet -> config_link ---- notes ----> hub (one thread: sessions, actions, syncs)
//!                  \-> snapshot_link --+                 ^        |
//!                  \-> live_link ------+-> publisher     |        +-> jobs (restore, verify: a thread each)
//!                        |                    |          |
//!                        v                    v        calls
//!                  writing threads ------>  store <--- backend <- control.sock
//! ```

mod backend;
mod compare_link;
mod comparer;
mod comparisons;
mod config_link;
mod courier;
mod device_restore;
mod drafts;
mod exports;
mod files_restore;
mod greet;
mod hub;
mod indexer;
mod intake;
mod jobs;
mod judge;
mod lists;
mod live_link;
mod locks;
mod mounts;
mod policies;
mod publisher;
mod restore_link;
mod restore_words;
mod restores;
mod room;
mod rows;
mod settings;
mod snapshot_link;
mod syncs;
mod upkeep;
mod verifier;

use crate::api::events::Feed;
use crate::api::server;
use crate::api::socket::ControlSocket;
use crate::browse::pool::Browsers;
use crate::cli::start::DispatcherArgs;
use crate::io::channel::Listener;
use crate::io::random;
use crate::io::signals::Stop;
use crate::model::ids::ActionId;
use crate::store::{Store, StoreError};
use anyhow::Context;
use backend::Control;
use drafts::Drafts;
use greet::Greeter;
use hub::{Hub, Note};
use indexer::Indexer;
use jobs::Jobs;
use locks::DiskLocks;
use policies::PolicyBook;
use publisher::Publisher;
use settings::Settings;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// How often agents are pinged and policies looked at.
const TICK: Duration = Duration::from_secs(10);
/// How long connections may take to end when the dispatcher stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What the tasks of the dispatcher share: handles only.
#[derive(Clone)]
pub(crate) struct Shared {
    store: Store,
    publisher: Publisher,
    locks: DiskLocks,
    drafts: Drafts,
    notes: mpsc::Sender<Note>,
    /// Turns of the restores of files to agents: each reads in a process of its own.
    couriers: Arc<Semaphore>,
}

impl Shared {
    /// Runs what blocks on a thread. Errors become text: they are told to an agent or a person.
    async fn blocking<T, E>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, String>
    where
        T: Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || work(&store).map_err(|e| e.to_string())).await {
            Ok(done) => done,
            Err(_) => Err("the dispatcher is stopping".to_owned()),
        }
    }

    /// Tells the hub. It has ended only when the dispatcher stops.
    async fn note(&self, note: Note) {
        let _ = self.notes.send(note).await;
    }

    /// Tells the hub how far an action is, unless it is busy: the next word says it too.
    fn progress(&self, action: ActionId, done: u64, total: u64) {
        let _ = self.notes.try_send(Note::Progress { action, done, total });
    }
}

/// How often the catalog is asked whether it can still be written.
const LOOK_FOR_LOSS: Duration = Duration::from_secs(1);

/// Runs the dispatcher until it is told to stop.
pub async fn run(args: DispatcherArgs) -> anyhow::Result<()> {
    let settings = Settings::load(args)?;
    crate::io::limits::raise_open_files();
    let mut stop = Stop::listen().context("cannot listen for signals")?;
    let (store, report) = open_store(&settings).await?;
    settings.say_opened(&report);
    let socket = ControlSocket::bind(&settings.data_dir)?;
    let listener = Listener::bind(settings.listen).await?;
    let address = listener.local_addr().context("cannot tell the address that is listened on")?;
    settings.write_address(address)?;
    let (notes, queue) = mpsc::channel(hub::QUEUE);
    let feed = Feed::default();
    let policies = PolicyBook::new(settings.policy_dir.clone(), settings.policies.clone());
    let hub = Hub::new(store.clone(), policies, Jobs::new(store.clone(), notes.clone()), feed.clone())
        .context("cannot read the open actions")?;
    let hub = std::thread::Builder::new().name("hub".to_owned()).spawn(move || hub.run(queue))?;
    let (indexer, indexing) = Indexer::start(store.clone()).context("cannot start a thread")?;
    let (publisher, publishing) = Publisher::new(store.clone(), indexer);
    let (locks, drafts) = (DiskLocks::default(), Drafts::default());
    let shared = Shared {
        store: store.clone(),
        publisher,
        locks,
        drafts: drafts.clone(),
        notes: notes.clone(),
        couriers: Arc::new(Semaphore::new(files_restore::MAX_COURIERS)),
    };
    let (stopping, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(publishing);
    tasks.spawn(tick(notes.clone()));
    tasks.spawn(upkeep::watch(store.clone(), notes.clone()));
    tasks.spawn(room::watch(store.clone(), drafts));
    let browsers = Browsers::new(settings.data_dir.clone());
    let facts = settings.facts(address, store.id());
    let control = Arc::new(Control::new(notes.clone(), facts, feed, browsers.clone()));
    if let Some(address) = settings.metrics_listen {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener =
            listener.with_context(|| format!("cannot listen on {address} for requests for the metrics"))?;
        tasks.spawn(server::serve_metrics(listener, Arc::clone(&control), stopped.clone()));
    }
    let api = tokio::spawn(server::serve(socket, control, stopped));
    let greeter = Greeter::new(listener, shared, &settings);
    tracing::info!(%address, data_dir = %settings.data_dir.display(), store = %store.id(), "dispatcher started");
    let watched = store.clone();
    let end = async move {
        tokio::select! {
            () = stop.requested() => {}
            () = lost(&watched) => {}
        }
    };
    greeter.serve(end, STOP_PATIENCE).await;
    let _ = stopping.send(true);
    browsers.stop().await;
    let _ = api.await;
    tasks.shutdown().await;
    let _ = notes.send(Note::Stop).await;
    // Whatever it is at is the merge of a few indexes.
    let _ = tokio::task::spawn_blocking(move || (hub.join(), indexing.join())).await;
    settings.remove_address();
    anyhow::ensure!(
        !store.is_lost(),
        "the catalog under {} could not be written, and a new start is needed to go on: see the error above; if the \
         disk is full, make room first",
        settings.data_dir.display()
    );
    tracing::info!("dispatcher stopped");
    Ok(())
}

/// Comes when the catalog has met an error that only opening it again can mend, as after a full disk: nothing could be
/// published any more.
async fn lost(store: &Store) {
    let mut every = tokio::time::interval(LOOK_FOR_LOSS);
    while !store.is_lost() {
        every.tick().await;
    }
}

async fn open_store(settings: &Settings) -> anyhow::Result<(Store, crate::store::recovery::OpenReport)> {
    let data_dir = settings.data_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&data_dir, Arc::new(random::id)));
    let opened: Result<_, StoreError> = opened.await.context("the thread that opens the store ended")?;
    opened.with_context(|| format!("cannot open data directory {}", settings.data_dir.display()))
}

async fn tick(notes: mpsc::Sender<Note>) {
    let mut every = tokio::time::interval(TICK);
    loop {
        every.tick().await;
        if notes.send(Note::Tick).await.is_err() {
            return;
        }
    }
}
