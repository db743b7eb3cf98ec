//! Serves the API on the control socket: bounded, and stopped without cutting off an answer.
//!
//! axum's own `serve` has no timeouts and no bound on connections, so the accept loop is here.

use super::backend::Backend;
use super::routes;
use super::socket::{ControlSocket, Peer, SocketError};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// Connections served at once: some people, their scripts and their waiting syncs. More wait in the backlog.
pub const MAX_CONNECTIONS: usize = 64;
/// A scraper or two, and a person who looks. More wait in the backlog.
pub const MAX_SCRAPERS: usize = 8;
/// A request's head fits one packet; also how long a connection may be idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// Head and body are read through this; hyper takes no less than 8 KiB.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Answers under way get this long when the dispatcher stops. Waiting syncs do not end by themselves.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// Pause after a failed accept (no file descriptors left), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `stop` is true or its sender is gone, then removes the socket.
pub async fn serve<B: Backend>(
    socket: ControlSocket,
    backend: Arc<B>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { action: "serve", path: socket.path().to_owned(), source };
    let listener = socket.listener().and_then(UnixListener::from_std).map_err(failed)?;
    let routes = routes::router(backend, stop.clone());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some((stream, place)) = accept(&listener, &places) => {
                let routes = for_peer(&stream, routes.clone());
                connections.spawn(connection(stream, place, routes, stop.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop((listener, socket));
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_PATIENCE, all_ended).await.is_err() {
        tracing::info!("control connections that still wait for an answer are closed");
    }
    Ok(())
}

/// Serves the metrics, and nothing else, to whoever asks: they may be read without being allowed to control anything.
pub async fn serve_metrics<B: Backend>(
    listener: TcpListener,
    backend: Arc<B>,
    mut stop: watch::Receiver<bool>,
) {
    let routes = routes::metrics_only(backend);
    let places = Arc::new(Semaphore::new(MAX_SCRAPERS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((stream, _)) => Some((stream, place)),
                Err(error) => {
                    tracing::warn!("cannot accept a request for the metrics: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    None
                }
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            Some((stream, place)) = accepted => {
                connections.spawn(connection(stream, place, routes.clone(), stop.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends when `stop` is true or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error is a sender that is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The next caller, once there is a place for it. `None` after an accept that failed.
async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> Option<(UnixStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!("cannot accept on the control socket: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    _place: OwnedSemaphorePermit,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(READ_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("control connection ended: {error}");
    }
}

/// What this caller gets: the API, or a refusal that says why.
fn for_peer(stream: &UnixStream, routes: Router) -> Router {
    let own_uid = rustix::process::geteuid().as_raw();
    match Peer::of(stream) {
        Ok(peer) if peer.may_control(own_uid) => routes,
        Ok(peer) => {
            tracing::warn!("the control socket refused {peer}");
            routes::refusal(format!(
                "{peer} may not control this dispatcher: only root and user {own_uid}, who runs it, may"
            ))
        }
        Err(error) => routes::refusal(format!("the kernel does not say who is calling: {error}")),
    }
}
