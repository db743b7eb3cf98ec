//! The API as HTTP: routes, what they accept, and how an error looks. Where they are served is [`super::server`]'s.

mod browse;
pub mod document;
mod exports;

use crate::api::backend::{
    AgentRestore, Backend, FilesRestore, Filter, RestoreRequest, SyncRequest, VerifyRequest,
};
use crate::api::chain::PointChain;
use crate::api::consolidation::{ConsolidateBody, ConsolidationPlan};
use crate::api::error::{ApiError, ErrorBody, ErrorCode, Result};
use crate::api::events;
use crate::api::metrics::{self, Scrape};
use crate::api::mounts::{MountBody, MountRow, UnmountQuery};
use crate::api::page::{self, Page, Window};
use crate::api::policies::PolicyList;
use crate::api::resolve;
use crate::api::types::{
    ActionRow, AgentDetail, AgentRow, Control, DiskRow, DispatcherStatus, FilesReport, ListQuery, PointRow,
    RestoreBody, SnapshotBody, SourceBody, SyncBody, SyncRow, VerifyBody, VerifyReport,
};
use crate::archive::selection;
use crate::model::byte_text::ByteText;
use crate::model::ids::{ActionId, PointId};
use crate::model::verification::Scope;
use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::http::{StatusCode, Uri};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use document::{FilterQuery, Problem, WindowQuery};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::future::ready;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Where monitoring systems look.
const METRICS_PATH: &str = "/metrics";
/// Request bodies are a few names and a path; the longest path is 4 KiB.
const MAX_BODY_BYTES: usize = 64 << 10;
/// A body that fits one packet and does not come within this will not come.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Every route of the API over one backend.
/// Streams of events end when `stop` is true.
pub fn router<B: Backend>(backend: Arc<B>, stop: watch::Receiver<bool>) -> Router {
    let ear = Arc::clone(&backend);
    let events =
        move || ready(Sse::new(events::stream(ear.events(), stop.clone())).keep_alive(KeepAlive::default()));
    Router::new()
        .route(METRICS_PATH, get(metrics::<B>))
        .route("/api/v1/openapi.json", get(document::document))
        .route("/api/v1/events", get(events))
        .route("/api/v1/status", get(status::<B>))
        .route("/api/v1/agents", get(agents::<B>))
        .route("/api/v1/agents/{agent}", get(agent::<B>))
        .route("/api/v1/disks", get(disks::<B>))
        .route("/api/v1/policies", get(policies::<B>))
        .route("/api/v1/mounts", get(mounts::<B>).post(mount::<B>).delete(unmount::<B>))
        .route(
            "/api/v1/exports",
            get(exports::exports::<B>).post(exports::export::<B>).delete(exports::stop_export::<B>),
        )
        .route("/api/v1/points", get(points::<B>))
        .route("/api/v1/points/{point}", get(point::<B>))
        .route("/api/v1/points/{point}/chain", get(chain::<B>))
        .route("/api/v1/points/{point}/partitions", get(browse::partitions::<B>))
        .route("/api/v1/points/{point}/files", get(browse::files::<B>))
        .route("/api/v1/points/{point}/find", get(browse::find::<B>))
        .route("/api/v1/points/{point}/diff", get(browse::diff::<B>))
        .route("/api/v1/actions", get(actions::<B>))
        .route("/api/v1/actions/{action}", get(action::<B>))
        .route("/api/v1/actions/{action}/report", get(report::<B>))
        .route("/api/v1/actions/{action}/files", get(files_report::<B>))
        .route("/api/v1/actions/{action}/pause", post(pause::<B>))
        .route("/api/v1/actions/{action}/resume", post(resume::<B>))
        .route("/api/v1/actions/{action}/cancel", post(cancel::<B>))
        .route("/api/v1/snapshots", post(snapshot::<B>))
        .route("/api/v1/syncs", post(sync::<B>))
        .route("/api/v1/restores", post(restore::<B>))
        .route("/api/v1/verifications", post(verify::<B>))
        .route("/api/v1/consolidations", post(consolidate::<B>))
        .route("/api/v1/consolidations/plan", get(consolidation_plan::<B>))
        .route("/api/v1/verifications/source", post(verify_source::<B>))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(backend)
}

/// What may be read without being allowed to control anything.
pub(super) fn metrics_only<B: Backend>(backend: Arc<B>) -> Router {
    Router::new().route(METRICS_PATH, get(metrics::<B>)).fallback(no_route).with_state(backend)
}

/// Answers every request with a refusal: for a caller that may not use the API at all.
pub(super) fn refusal(message: String) -> Router {
    let error = ApiError::refused(message);
    Router::new().fallback(move || ready((StatusCode::FORBIDDEN, error_body(error.clone()))))
}

type Answer<T> = Result<Json<T>>;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.code {
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Refused | ErrorCode::Unconfirmed => StatusCode::CONFLICT,
            ErrorCode::Invalid => StatusCode::BAD_REQUEST,
            ErrorCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, error_body(self)).into_response()
    }
}

fn error_body(error: ApiError) -> Json<ErrorBody> {
    Json(ErrorBody { error })
}

async fn no_route(request: Request) -> ApiError {
    ApiError::not_found(format!(
        "no route {} {} in this version of the API",
        request.method(),
        request.uri().path()
    ))
}

/// The route is one, and takes other methods; `Allow` names them.
async fn no_method(request: Request) -> (StatusCode, Json<ErrorBody>) {
    (StatusCode::METHOD_NOT_ALLOWED, error_body(no_route(request).await))
}

/// Gauges for monitoring systems.
#[utoipa::path(get, path = "/metrics", tag = "watching", responses((status = 200, description = "Gauges as OpenMetrics text", body = String, content_type = "application/openmetrics-text"), Problem))]
async fn metrics<B: Backend>(State(b): State<Arc<B>>) -> Result<([(HeaderName, &'static str); 1], String)> {
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], Scrape::take(&*b).await?.text()?))
}

/// The dispatcher itself.
#[utoipa::path(get, path = "/api/v1/status", tag = "watching", responses((status = 200, body = DispatcherStatus), Problem))]
async fn status<B: Backend>(State(b): State<Arc<B>>) -> Answer<DispatcherStatus> {
    b.status().await.map(Json)
}

/// Agents that have been here, by id.
#[utoipa::path(get, path = "/api/v1/agents", tag = "watching", params(WindowQuery), responses((status = 200, body = Page<AgentRow>), Problem))]
async fn agents<B: Backend>(State(b): State<Arc<B>>, uri: Uri) -> Answer<Page<AgentRow>> {
    let window = window(&plain(&uri)?)?;
    Ok(Json(Page::of(b.agents().await?, |row| row.id.to_string(), &window)))
}

/// One agent and all that it said of its host.
#[utoipa::path(get, path = "/api/v1/agents/{agent}", tag = "watching", params(("agent" = String, Path, description = "Id of the agent")), responses((status = 200, body = AgentDetail), Problem))]
async fn agent<B: Backend>(State(b): State<Arc<B>>, Path(text): Path<String>) -> Answer<AgentDetail> {
    let agent = resolve::agent(&b.agents().await?, &text)?;
    b.agent(agent).await.map(Json)
}

/// Disks, by agent and device.
#[utoipa::path(get, path = "/api/v1/disks", tag = "watching", params(FilterQuery, WindowQuery), responses((status = 200, body = Page<DiskRow>), Problem))]
async fn disks<B: Backend>(State(b): State<Arc<B>>, uri: Uri) -> Answer<Page<DiskRow>> {
    let query: ListQuery = query(&uri)?;
    if query.newest.is_some() {
        return Err(ApiError::invalid("no disk is newer than another: `newest` is for points and actions"));
    }
    let (filter, window) = (filter(&*b, &query).await?, window(&query)?);
    let mut rows = b.disks(filter.agent).await?;
    rows.retain(|row| filter.disk.is_none_or(|disk| row.id == disk));
    Ok(Json(Page::of(rows, |row| format!("{} {} {}", row.agent, row.device, row.id), &window)))
}

/// Recovery points.
///
/// Disk after disk in the order of their ids, those of a disk in the order of publication; with `newest`, those alone,
/// oldest cut first.
#[utoipa::path(get, path = "/api/v1/points", tag = "points", params(ListQuery), responses((status = 200, body = Page<PointRow>), Problem))]
async fn points<B: Backend>(State(b): State<Arc<B>>, uri: Uri) -> Answer<Page<PointRow>> {
    let query: ListQuery = query(&uri)?;
    let filter = filter(&*b, &query).await?;
    match newest(&query)? {
        Some(count) => Ok(Json(Page { items: b.newest_points(filter, count).await?, next: None })),
        None => b.points(filter, window(&query)?).await.map(Json),
    }
}

/// The policies in force, and whom they are for.
#[utoipa::path(get, path = "/api/v1/policies", tag = "watching", responses((status = 200, body = PolicyList), Problem))]
async fn policies<B: Backend>(State(b): State<Arc<B>>) -> Answer<PolicyList> {
    b.policies().await.map(Json)
}

/// Points that are mounted on the dispatcher's host.
#[utoipa::path(get, path = "/api/v1/mounts", tag = "mounts", params(WindowQuery), responses((status = 200, body = Page<MountRow>), Problem))]
async fn mounts<B: Backend>(State(b): State<Arc<B>>, uri: Uri) -> Answer<Page<MountRow>> {
    let window = window(&plain(&uri)?)?;
    Ok(Json(Page::of(b.mounts().await?, |row| row.directory.clone(), &window)))
}

/// Mounts a point.
///
/// Its server lives as long as the mount; where a service manager stops the dispatcher with all of its processes, as
/// systemd does, it ends then, too.
#[utoipa::path(post, path = "/api/v1/mounts", tag = "mounts", request_body = MountBody, responses((status = 200, body = MountRow), Problem))]
async fn mount<B: Backend>(State(b): State<Arc<B>>, Body(body): Body<MountBody>) -> Answer<MountRow> {
    let directory = absolute("mount on", &body.directory)?;
    let point = point_id(&*b, &body.point).await?;
    b.mount(point, directory).await.map(Json)
}

/// Unmounts a point.
#[utoipa::path(delete, path = "/api/v1/mounts", tag = "mounts", params(UnmountQuery), responses((status = 200, body = MountRow), Problem))]
async fn unmount<B: Backend>(State(b): State<Arc<B>>, uri: Uri) -> Answer<MountRow> {
    let query: UnmountQuery = query(&uri)?;
    b.unmount(absolute("unmount", &query.directory)?).await.map(Json)
}

/// One recovery point and all that is stored of it.
#[utoipa::path(get, path = "/api/v1/points/{point}", tag = "points", params(("point" = String, Path, description = "Id of the point, or 4 or more of its first digits")), responses((status = 200, body = PointRow), Problem))]
async fn point<B: Backend>(State(b): State<Arc<B>>, Path(text): Path<String>) -> Answer<PointRow> {
    let point = point_id(&*b, &text).await?;
    b.point(point).await.map(Json)
}

/// The files that a point is made of, for a process on the dispatcher's host that reads them itself.
#[utoipa::path(get, path = "/api/v1/points/{point}/chain", tag = "points", params(("point" = String, Path, description = "Id of the point, or 4 or more of its first digits")), responses((status = 200, body = PointChain), Problem))]
async fn chain<B: Backend>(State(b): State<Arc<B>>, Path(text): Path<String>) -> Answer<PointChain> {
    let point = point_id(&*b, &text).await?;
    b.chain(point).await.map(Json)
}

/// Actions, oldest first.
#[utoipa::path(get, path = "/api/v1/actions", tag = "actions", params(ListQuery), responses((status = 200, body = Page<ActionRow>), Problem))]
async fn actions<B: Backend>(State(b): State<Arc<B>>, uri: Uri) -> Answer<Page<ActionRow>> {
    let query: ListQuery = query(&uri)?;
    let mut rows = b.actions(filter(&*b, &query).await?).await?;
    if let Some(count) = newest(&query)? {
        rows.drain(..rows.len().saturating_sub(count));
        return Ok(Json(Page { items: rows, next: None }));
    }
    // Times before 1970 are nobody's.
    let key = |row: &ActionRow| format!("{:020}.{}", row.created.as_nanosecond().max(0), row.id);
    Ok(Json(Page::of(rows, key, &window(&query)?)))
}

/// One action.
#[utoipa::path(get, path = "/api/v1/actions/{action}", tag = "actions", params(("action" = String, Path, description = "Id of the action, or 4 or more of its first digits")), responses((status = 200, body = ActionRow), Problem))]
async fn action<B: Backend>(State(b): State<Arc<B>>, Path(text): Path<String>) -> Answer<ActionRow> {
    let action = action_id(&*b, &text).await?;
    b.action(action).await.map(Json)
}

/// What came of a restore of files, or would come of it.
#[utoipa::path(get, path = "/api/v1/actions/{action}/files", tag = "actions", params(("action" = String, Path, description = "Id of the action, or 4 or more of its first digits")), responses((status = 200, body = FilesReport), Problem))]
async fn files_report<B: Backend>(State(b): State<Arc<B>>, Path(text): Path<String>) -> Answer<FilesReport> {
    let action = action_id(&*b, &text).await?;
    b.files_report(action).await.map(Json)
}

/// What a verification found.
#[utoipa::path(get, path = "/api/v1/actions/{action}/report", tag = "actions", params(("action" = String, Path, description = "Id of the action, or 4 or more of its first digits")), responses((status = 200, body = VerifyReport), Problem))]
async fn report<B: Backend>(State(b): State<Arc<B>>, Path(text): Path<String>) -> Answer<VerifyReport> {
    let action = action_id(&*b, &text).await?;
    b.verify_report(action).await.map(Json)
}

/// Pauses an action; what changes meanwhile is kept in mind.
#[utoipa::path(post, path = "/api/v1/actions/{action}/pause", tag = "actions", params(("action" = String, Path, description = "Id of the action, or 4 or more of its first digits")), responses((status = 200, body = ActionRow), Problem))]
async fn pause<B: Backend>(State(b): State<Arc<B>>, Path(text): Path<String>) -> Answer<ActionRow> {
    control(&*b, &text, Control::Pause).await
}

/// Goes on with a paused action.
#[utoipa::path(post, path = "/api/v1/actions/{action}/resume", tag = "actions", params(("action" = String, Path, description = "Id of the action, or 4 or more of its first digits")), responses((status = 200, body = ActionRow), Problem))]
async fn resume<B: Backend>(State(b): State<Arc<B>>, Path(text): Path<String>) -> Answer<ActionRow> {
    control(&*b, &text, Control::Resume).await
}

/// Stops an action for good.
#[utoipa::path(post, path = "/api/v1/actions/{action}/cancel", tag = "actions", params(("action" = String, Path, description = "Id of the action, or 4 or more of its first digits")), responses((status = 200, body = ActionRow), Problem))]
async fn cancel<B: Backend>(State(b): State<Arc<B>>, Path(text): Path<String>) -> Answer<ActionRow> {
    control(&*b, &text, Control::Cancel).await
}

async fn control<B: Backend>(b: &B, text: &str, control: Control) -> Answer<ActionRow> {
    let action = action_id(b, text).await?;
    b.control(action, control).await.map(Json)
}

/// Begins a full image; the answer is the one that is under way if there is one.
#[utoipa::path(post, path = "/api/v1/snapshots", tag = "doing", request_body = SnapshotBody, responses((status = 200, body = ActionRow), Problem))]
async fn snapshot<B: Backend>(State(b): State<Arc<B>>, Body(body): Body<SnapshotBody>) -> Answer<ActionRow> {
    let agent = resolve::agent(&b.agents().await?, &body.agent)?;
    let disk = resolve::disk(&b.disks(Some(agent)).await?, &body.disk)?.id;
    b.snapshot(disk).await.map(Json)
}

/// Cuts now: a row per disk, with a common `cut_id`.
#[utoipa::path(post, path = "/api/v1/syncs", tag = "doing", request_body = SyncBody, responses((status = 200, body = Vec<SyncRow>), Problem))]
async fn sync<B: Backend>(State(b): State<Arc<B>>, Body(body): Body<SyncBody>) -> Answer<Vec<SyncRow>> {
    let agent = resolve::agent(&b.agents().await?, &body.agent)?;
    let disk = match &body.disk {
        Some(text) => Some(resolve::disk(&b.disks(Some(agent.clone())).await?, text)?.id),
        None => None,
    };
    b.sync(SyncRequest { agent, disk, goal: body.consistency, wait: body.wait }).await.map(Json)
}

/// Begins a restore. What exists is overwritten only with `yes`.
#[utoipa::path(post, path = "/api/v1/restores", tag = "doing", request_body = RestoreBody, responses((status = 200, body = ActionRow), Problem))]
async fn restore<B: Backend>(State(b): State<Arc<B>>, Body(body): Body<RestoreBody>) -> Answer<ActionRow> {
    if !body.paths.is_empty() || body.target.is_some() {
        return restore_files(&*b, body).await.map(Json);
    }
    let of_device = body.full || body.no_undo || body.dry_run;
    match (body.to.clone(), body.agent.clone(), body.device.clone()) {
        (Some(to), None, None) if !of_device => restore_here(&*b, body, to).await,
        (None, Some(agent), Some(device)) => restore_to_agent(&*b, body, &agent, device).await,
        _ => Err(ApiError::invalid(
            "give `to`, a path on this host; or `agent` and `device`, with which `full`, `no_undo` and `dry_run` go; or \
             `paths` and `target`",
        )),
    }
    .map(Json)
}

async fn restore_here<B: Backend>(b: &B, body: RestoreBody, to: String) -> Result<ActionRow> {
    let to = absolute("restore to", &to)?;
    let point = point_id(b, &body.point).await?;
    let RestoreBody { partition, yes, allow_holes, .. } = body;
    b.restore(RestoreRequest { point, partition, to, yes, allow_holes }).await
}

async fn restore_to_agent<B: Backend>(
    b: &B,
    body: RestoreBody,
    agent: &str,
    device: String,
) -> Result<ActionRow> {
    absolute("restore to", &device)?;
    let agent = resolve::agent(&b.agents().await?, agent)?;
    let point = point_id(b, &body.point).await?;
    let RestoreBody { partition, full, no_undo, dry_run, yes, agreed, allow_holes, .. } = body;
    let undo = !no_undo;
    let request =
        AgentRestore { agent, point, partition, device, full, undo, dry_run, yes, agreed, allow_holes };
    b.restore_to_agent(request).await
}

async fn restore_files<B: Backend>(b: &B, body: RestoreBody) -> Result<ActionRow> {
    let RestoreBody { paths, target, conflict, dry_run, .. } = body;
    let of_disks = body.to.is_some() || body.device.is_some() || body.partition.is_some();
    let (false, Some(target), false) = (of_disks || body.full || body.no_undo, target, paths.is_empty())
    else {
        return Err(ApiError::invalid(
            "files are restored with `paths`, `target` and, to another host, `agent`; `conflict` and `dry_run` go with them, \
             and nothing that is of disks",
        ));
    };
    for path in &paths {
        if selection::path(selection::place(path.as_bytes()).1).is_none() {
            return Err(ApiError::invalid(format!("`{path}` is no path of a point: it leads upwards")));
        }
    }
    absolute("restore to", &target)?;
    let agent = match &body.agent {
        Some(text) => Some(resolve::agent(&b.agents().await?, text)?),
        None => None,
    };
    let point = point_id(b, &body.point).await?;
    let paths = paths.into_iter().map(ByteText::into_bytes).collect();
    b.restore_files(FilesRestore { point, paths, target, conflict, dry_run, agent }).await
}

/// Begins to read what is stored and to compare it with its digests.
#[utoipa::path(post, path = "/api/v1/verifications", tag = "doing", request_body = VerifyBody, responses((status = 200, body = ActionRow), Problem))]
async fn verify<B: Backend>(State(b): State<Arc<B>>, Body(body): Body<VerifyBody>) -> Answer<ActionRow> {
    let scope = match (&body.point, &body.agent) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("give a point or an agent, not both")),
        (Some(text), None) => Scope::Point(point_id(&*b, text).await?),
        (None, Some(text)) => Scope::Agent(resolve::agent(&b.agents().await?, text)?),
        (None, None) => Scope::Store,
    };
    b.verify(VerifyRequest { scope, sample: body.sample }).await.map(Json)
}

/// Begins a consolidation: one action for each disk that has something to be done.
#[utoipa::path(post, path = "/api/v1/consolidations", tag = "doing", request_body = ConsolidateBody, responses((status = 200, body = Vec<ActionRow>), Problem))]
async fn consolidate<B: Backend>(
    State(b): State<Arc<B>>,
    Body(body): Body<ConsolidateBody>,
) -> Answer<Vec<ActionRow>> {
    let query = ListQuery { agent: body.agent, disk: body.disk, ..ListQuery::default() };
    let filter = filter(&*b, &query).await?;
    b.consolidate(filter).await.map(Json)
}

/// What a consolidation would do now.
#[utoipa::path(get, path = "/api/v1/consolidations/plan", tag = "doing", params(FilterQuery), responses((status = 200, body = ConsolidationPlan), Problem))]
async fn consolidation_plan<B: Backend>(State(b): State<Arc<B>>, uri: Uri) -> Answer<ConsolidationPlan> {
    let filter = filter(&*b, &query(&uri)?).await?;
    b.consolidation_plan(filter).await.map(Json)
}

/// Begins to compare a disk with its newest point.
#[utoipa::path(post, path = "/api/v1/verifications/source", tag = "doing", request_body = SourceBody, responses((status = 200, body = ActionRow), Problem))]
async fn verify_source<B: Backend>(
    State(b): State<Arc<B>>,
    Body(body): Body<SourceBody>,
) -> Answer<ActionRow> {
    let agent = resolve::agent(&b.agents().await?, &body.agent)?;
    let disks = b.disks(Some(agent)).await?;
    let disk = match &body.disk {
        Some(text) => resolve::disk(&disks, text)?.id,
        None => resolve::only_with_points(&disks)?.id,
    };
    b.verify_source(disk).await.map(Json)
}

fn absolute(action: &str, text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    if !path.is_absolute() || text.contains('\0') {
        return Err(ApiError::invalid(format!("cannot {action} `{text}`: give an absolute path")));
    }
    Ok(path)
}

async fn point_id<B: Backend>(b: &B, text: &str) -> Result<PointId> {
    let range = resolve::id_range("point", text)?;
    let range = PointId(*range.start())..=PointId(*range.end());
    resolve::id("point", text, &b.point_ids(range, resolve::MAX_CANDIDATES + 1).await?)
}

async fn action_id<B: Backend>(b: &B, text: &str) -> Result<ActionId> {
    let range = resolve::id_range("action", text)?;
    let range = ActionId(*range.start())..=ActionId(*range.end());
    resolve::id("action", text, &b.action_ids(range, resolve::MAX_CANDIDATES + 1).await?)
}

/// A list's query with its names resolved. A disk may be named without its agent if only one disk is called so.
async fn filter<B: Backend>(b: &B, query: &ListQuery) -> Result<Filter> {
    let agent = match &query.agent {
        Some(text) => Some(resolve::agent(&b.agents().await?, text)?),
        None => None,
    };
    let disk = match &query.disk {
        Some(text) => Some(resolve::disk(&b.disks(agent.clone()).await?, text)?.id),
        None => None,
    };
    Ok(Filter { agent, disk })
}

/// The query of a list that has no filter.
fn plain(uri: &Uri) -> Result<ListQuery> {
    let query: ListQuery = query(uri)?;
    if query.agent.is_some() || query.disk.is_some() || query.newest.is_some() {
        return Err(ApiError::invalid(format!("{uri}: this list takes `limit` and `after` only")));
    }
    Ok(query)
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T> {
    let wrong = |why: &dyn std::fmt::Display| ApiError::invalid(format!("the query of {uri}: {why}"));
    let text: ByteText = uri.query().unwrap_or_default().parse().map_err(|error| wrong(&error))?;
    if std::str::from_utf8(text.as_bytes()).is_err() {
        return Err(wrong(&"it is no UTF-8 text: a byte of a name, as %FF, is given as the text %25FF"));
    }
    Query::<T>::try_from_uri(uri).map(|query| query.0).map_err(|error| wrong(&error.body_text()))
}

/// The part of a list that a query asks for.
fn window(query: &ListQuery) -> Result<Window> {
    Ok(Window { limit: page::limit(query.limit)?, after: query.after.clone() })
}

/// The newest so many that a query asks for, which come in one answer.
fn newest(query: &ListQuery) -> Result<Option<usize>> {
    let Some(newest) = query.newest else { return Ok(None) };
    if query.after.is_some() || query.limit.is_some() {
        return Err(ApiError::invalid("`newest` comes in one answer: leave out `limit` and `after`"));
    }
    page::within("newest", usize::try_from(newest).unwrap_or(usize::MAX)).map(Some)
}

/// A request's JSON body, bounded in length and time.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let too_long =
            || ApiError::invalid(format!("the body is too long: at most {MAX_BODY_BYTES} bytes are taken"));
        let body = request.into_body();
        if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
            return Err(too_long());
        }
        let bytes: Bytes = match timeout(BODY_PATIENCE, Limited::new(body, MAX_BODY_BYTES).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_long()),
            Ok(Err(error)) => return Err(ApiError::invalid(format!("the body could not be read: {error}"))),
            Err(_) => {
                return Err(ApiError::invalid(format!("the body did not come within {BODY_PATIENCE:?}")));
            }
        };
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| ApiError::invalid(format!("the body: {error}")))
    }
}
