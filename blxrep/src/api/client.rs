//! The API's client: one connection per request, every answer bounded in size and time.

use super::browse::{ChangeRow, DiffQuery, FileRow, FilesQuery, FindQuery, Findings, PartitionRow};
use super::chain::PointChain;
use super::consolidation::{ConsolidateBody, ConsolidationPlan};
use super::error::{ApiError, ErrorBody};
use super::exports::{ExportBody, ExportRow, StopQuery};
use super::mounts::{MountBody, MountRow, UnmountQuery};
use super::page::{MAX_LIMIT, Page};
use super::policies::PolicyList;
use super::socket::{connect, socket_path};
use super::types::{
    ActionRow, AgentDetail, AgentRow, Control, DiskRow, DispatcherStatus, FilesReport, ListQuery, PointRow,
    RestoreBody, SnapshotBody, SourceBody, SyncBody, SyncRow, VerifyBody, VerifyReport,
};
use crate::model::ids::ActionId;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// A page of a thousand points with long notes, or the plan of a consolidation of 100,000 points.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Anything but a waiting sync is answered from the dispatcher's own state.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer, or what the answer says went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no dispatcher answers at {}: {source}; start it with `blxrep start --mode dispatcher --data-dir {}`, or name \
         its data directory with --data-dir",
        socket.display(),
        data_dir.display()
    )]
    Unreachable { socket: PathBuf, data_dir: PathBuf, source: io::Error },
    #[error("may not use {}: run this as root or as the user that runs the dispatcher", .0.display())]
    NotAllowed(PathBuf),
    #[error("the dispatcher at {} broke off: {what}", socket.display())]
    Broken { socket: PathBuf, what: String },
    #[error("the dispatcher at {} did not answer within {patience:?}; its log may say why", socket.display())]
    TimedOut { socket: PathBuf, patience: Duration },
    #[error(transparent)]
    Api(#[from] ApiError),
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

/// Talks to the dispatcher of one data directory.
#[derive(Clone, Debug)]
pub struct Client {
    data_dir: PathBuf,
    socket: PathBuf,
}

impl Client {
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), socket: socket_path(data_dir) }
    }

    /// Talks to a dispatcher whose socket has been given another place.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        let data_dir = socket.parent().unwrap_or(Path::new("/")).to_owned();
        Self { data_dir, socket }
    }

    /// The data directory of the dispatcher that it talks to.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The socket it talks to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn status(&self) -> Result<DispatcherStatus> {
        self.get("/api/v1/status").await
    }

    pub async fn agents(&self) -> Result<Vec<AgentRow>> {
        self.all("/api/v1/agents", &ListQuery::default()).await
    }

    pub async fn agent(&self, agent: &str) -> Result<AgentDetail> {
        self.get(&format!("/api/v1/agents/{}", Encoded(agent))).await
    }

    pub async fn disks(&self, query: &ListQuery) -> Result<Vec<DiskRow>> {
        self.all("/api/v1/disks", query).await
    }

    pub async fn policies(&self) -> Result<PolicyList> {
        self.get("/api/v1/policies").await
    }

    pub async fn mounts(&self) -> Result<Vec<MountRow>> {
        self.all("/api/v1/mounts", &ListQuery::default()).await
    }

    pub async fn mount(&self, body: &MountBody) -> Result<MountRow> {
        self.post("/api/v1/mounts", body).await
    }

    pub async fn unmount(&self, query: &UnmountQuery) -> Result<MountRow> {
        let target = with_query("/api/v1/mounts", query);
        self.ask(Method::DELETE, &target, Bytes::new(), Some(ANSWER_PATIENCE)).await
    }

    pub async fn exports(&self) -> Result<Vec<ExportRow>> {
        self.all("/api/v1/exports", &ListQuery::default()).await
    }

    pub async fn export(&self, body: &ExportBody) -> Result<ExportRow> {
        self.post("/api/v1/exports", body).await
    }

    pub async fn stop_export(&self, query: &StopQuery) -> Result<ExportRow> {
        let target = with_query("/api/v1/exports", query);
        self.ask(Method::DELETE, &target, Bytes::new(), Some(ANSWER_PATIENCE)).await
    }

    /// Oldest cut first.
    pub async fn points(&self, query: &ListQuery) -> Result<Vec<PointRow>> {
        let mut rows: Vec<PointRow> = self.all("/api/v1/points", query).await?;
        rows.sort_by_key(|row| (row.cut, row.id));
        Ok(newest(rows, query))
    }

    /// One page, disk after disk in the order of publication.
    pub async fn points_page(&self, query: &ListQuery) -> Result<Page<PointRow>> {
        self.get(&with_query("/api/v1/points", query)).await
    }

    /// `point` is an id or the beginning of one, as everywhere here.
    pub async fn point(&self, point: &str) -> Result<PointRow> {
        self.get(&format!("/api/v1/points/{}", Encoded(point))).await
    }

    pub async fn partitions(&self, point: &str) -> Result<Findings<PartitionRow>> {
        self.get(&format!("/api/v1/points/{}/partitions", Encoded(point))).await
    }

    /// One page of a folder.
    pub async fn files(&self, point: &str, query: &FilesQuery) -> Result<Findings<FileRow>> {
        self.get(&with_query(&format!("/api/v1/points/{}/files", Encoded(point)), query)).await
    }

    /// One page of what fits a pattern.
    pub async fn find(&self, point: &str, query: &FindQuery) -> Result<Findings<FileRow>> {
        self.get(&with_query(&format!("/api/v1/points/{}/find", Encoded(point)), query)).await
    }

    /// One page of what differs.
    pub async fn diff(&self, point: &str, query: &DiffQuery) -> Result<Findings<ChangeRow>> {
        self.get(&with_query(&format!("/api/v1/points/{}/diff", Encoded(point)), query)).await
    }

    pub async fn chain(&self, point: &str) -> Result<PointChain> {
        self.get(&format!("/api/v1/points/{}/chain", Encoded(point))).await
    }

    /// Oldest first.
    pub async fn actions(&self, query: &ListQuery) -> Result<Vec<ActionRow>> {
        Ok(newest(self.all("/api/v1/actions", query).await?, query))
    }

    pub async fn action(&self, action: ActionId) -> Result<ActionRow> {
        self.get(&format!("/api/v1/actions/{action}")).await
    }

    pub async fn report(&self, action: ActionId) -> Result<VerifyReport> {
        self.get(&format!("/api/v1/actions/{action}/report")).await
    }

    pub async fn files_report(&self, action: ActionId) -> Result<FilesReport> {
        self.get(&format!("/api/v1/actions/{action}/files")).await
    }

    /// `action` is an id or the beginning of one.
    pub async fn control(&self, action: &str, control: Control) -> Result<ActionRow> {
        self.post(&format!("/api/v1/actions/{}/{control}", Encoded(action)), &()).await
    }

    pub async fn snapshot(&self, body: &SnapshotBody) -> Result<ActionRow> {
        self.post("/api/v1/snapshots", body).await
    }

    /// With `body.wait` this takes as long as the sync does: the dispatcher ends it.
    pub async fn sync(&self, body: &SyncBody) -> Result<Vec<SyncRow>> {
        let patience = (!body.wait).then_some(ANSWER_PATIENCE);
        self.ask(Method::POST, "/api/v1/syncs", encode(body)?, patience).await
    }

    pub async fn restore(&self, body: &RestoreBody) -> Result<ActionRow> {
        self.post("/api/v1/restores", body).await
    }

    pub async fn verify_source(&self, body: &SourceBody) -> Result<ActionRow> {
        self.post("/api/v1/verifications/source", body).await
    }

    pub async fn verify(&self, body: &VerifyBody) -> Result<ActionRow> {
        self.post("/api/v1/verifications", body).await
    }

    pub async fn consolidation_plan(&self, query: &ListQuery) -> Result<ConsolidationPlan> {
        self.get(&with_query("/api/v1/consolidations/plan", query)).await
    }

    pub async fn consolidate(&self, body: &ConsolidateBody) -> Result<Vec<ActionRow>> {
        self.post("/api/v1/consolidations", body).await
    }

    /// Every page of a list.
    async fn all<T: DeserializeOwned>(&self, path: &str, query: &ListQuery) -> Result<Vec<T>> {
        let mut query = query.clone();
        // The newest of more than one answer can have are chosen from all.
        query.newest = query.newest.filter(|count| in_one_answer(*count));
        query.limit = query.newest.is_none().then_some(u32::try_from(MAX_LIMIT).unwrap_or(u32::MAX));
        let mut rows = Vec::new();
        loop {
            let page: Page<T> = self.get(&with_query(path, &query)).await?;
            rows.extend(page.items);
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(rows),
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T> {
        self.ask(Method::GET, target, Bytes::new(), Some(ANSWER_PATIENCE)).await
    }

    async fn post<T: DeserializeOwned>(&self, target: &str, body: &impl Serialize) -> Result<T> {
        self.ask(Method::POST, target, encode(body)?, Some(ANSWER_PATIENCE)).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
        patience: Option<Duration>,
    ) -> Result<T> {
        let exchange = self.exchange(method, target, body);
        let (status, answer) = match patience {
            None => exchange.await?,
            Some(patience) => tokio::time::timeout(patience, exchange)
                .await
                .map_err(|_| ClientError::TimedOut { socket: self.socket.clone(), patience })??,
        };
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| self.broken(&error));
        }
        match serde_json::from_slice::<ErrorBody>(&answer) {
            Ok(body) => Err(body.error.into()),
            Err(_) => Err(self.broken(&format!("{status} without a reason"))),
        }
    }

    /// One request on its own connection.
    async fn exchange(&self, method: Method, target: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let stream = self.connect()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(&e))?;
        // Owns the connection: it ends with this exchange, also when that is dropped half-way.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(hyper::header::HOST, "blxrep")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| self.broken(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| self.broken(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                self.broken(&format!("its answer is longer than {MAX_ANSWER_BYTES} bytes; ask for less"))
            } else {
                self.broken(&error)
            }
        })?;
        Ok((status, body.to_bytes()))
    }

    pub(super) fn connect(&self) -> Result<UnixStream> {
        connect(&self.socket).and_then(UnixStream::from_std).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(self.socket.clone()),
            _ => {
                let (socket, data_dir) = (self.socket.clone(), self.data_dir.clone());
                ClientError::Unreachable { socket, data_dir, source }
            }
        })
    }

    pub(super) fn broken(&self, what: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), what: what.to_string() }
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes> {
    let bytes = serde_json::to_vec(body).map_err(|e| ApiError::invalid(format!("the request: {e}")))?;
    Ok(bytes.into())
}

fn in_one_answer(count: u32) -> bool {
    usize::try_from(count).is_ok_and(|count| (1..=MAX_LIMIT).contains(&count))
}

/// The last so many that a query asked for.
fn newest<T>(mut rows: Vec<T>, query: &ListQuery) -> Vec<T> {
    let count = query.newest.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    rows.drain(..rows.len().saturating_sub(count));
    rows
}

/// A path with a query of what is set in `query`, which is a struct of texts, numbers and flags.
fn with_query(path: &str, query: &impl Serialize) -> String {
    let mut target = path.to_owned();
    let mut separator = '?';
    // A struct of plain values is an object.
    let Ok(Value::Object(fields)) = serde_json::to_value(query) else { return target };
    for (name, value) in fields {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text,
            value => value.to_string(),
        };
        // Writing to a string cannot fail.
        let _ = write!(target, "{separator}{name}={}", Encoded(&text));
        separator = '&';
    }
    target
}

/// Text as part of a URL: everything but RFC 3986's unreserved characters is percent-encoded.
struct Encoded<'a>(&'a str);

impl std::fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                f.write_char(char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}
