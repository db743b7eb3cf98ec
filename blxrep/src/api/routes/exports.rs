//! Routes of points that are served as network block devices.

use super::document::{Problem, WindowQuery};
use super::{Answer, Body, absolute, plain, point_id, query, window};
use crate::api::backend::{Backend, ExportRequest};
use crate::api::exports::{ExportBody, ExportRow, StopQuery};
use crate::api::page::Page;
use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use std::sync::Arc;

/// Points that the dispatcher serves as network block devices.
///
/// Those that `blxrep export` serves in a terminal are not among them.
#[utoipa::path(get, path = "/api/v1/exports", tag = "mounts", params(WindowQuery), responses((status = 200, body = Page<ExportRow>), Problem))]
pub async fn exports<B: Backend>(State(b): State<Arc<B>>, uri: Uri) -> Answer<Page<ExportRow>> {
    let window = window(&plain(&uri)?)?;
    Ok(Json(Page::of(b.exports().await?, |row| row.uri.clone(), &window)))
}

/// Serves a point.
///
/// Answers when clients can connect. It is served until it is stopped, or the dispatcher is.
#[utoipa::path(post, path = "/api/v1/exports", tag = "mounts", request_body = ExportBody, responses((status = 200, body = ExportRow), Problem))]
pub async fn export<B: Backend>(State(b): State<Arc<B>>, Body(body): Body<ExportBody>) -> Answer<ExportRow> {
    let ExportBody { point, address, partition, writable } = body;
    if let Some(path) = address.strip_prefix("unix:") {
        absolute("serve at", path)?;
    }
    let point = point_id(&*b, &point).await?;
    b.export(ExportRequest { point, address, partition, writable }).await.map(Json)
}

/// Stops serving a point.
#[utoipa::path(delete, path = "/api/v1/exports", tag = "mounts", params(StopQuery), responses((status = 200, body = ExportRow), Problem))]
pub async fn stop_export<B: Backend>(State(b): State<Arc<B>>, uri: Uri) -> Answer<ExportRow> {
    let StopQuery { uri } = query(&uri)?;
    b.stop_export(uri).await.map(Json)
}
