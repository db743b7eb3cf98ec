//! Routes that look into points.

use super::document::Problem;
use super::{Answer, point_id, query};
use crate::api::backend::{Backend, DiffRequest, FilesRequest, FindRequest};
use crate::api::browse::{ChangeRow, DiffQuery, FileRow, FilesQuery, FindQuery, Findings, PartitionRow};
use crate::api::error::Result;
use crate::api::page::{limit, strange_cursor};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use std::sync::Arc;

/// Partitions of a point, in the order of its table, and the volumes on them.
#[utoipa::path(get, path = "/api/v1/points/{point}/partitions", tag = "points", params(("point" = String, Path, description = "Id of the point, or 4 or more of its first digits")), responses((status = 200, body = Findings<PartitionRow>), Problem))]
pub async fn partitions<B: Backend>(
    State(b): State<Arc<B>>,
    Path(text): Path<String>,
) -> Answer<Findings<PartitionRow>> {
    let point = point_id(&*b, &text).await?;
    b.partitions(point).await.map(Json)
}

/// Entries of a folder of a point, in the order of their names' bytes.
#[utoipa::path(get, path = "/api/v1/points/{point}/files", tag = "points", params(("point" = String, Path, description = "Id of the point, or 4 or more of its first digits"), FilesQuery), responses((status = 200, body = Findings<FileRow>), Problem))]
pub async fn files<B: Backend>(
    State(b): State<Arc<B>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer<Findings<FileRow>> {
    let FilesQuery { partition, path, limit: most, after } = query(&uri)?;
    let after = after.map(|after| after.parse()).transpose().map_err(|error| strange_cursor(&error))?;
    let path = path.unwrap_or_default();
    let request = FilesRequest { partition, path, limit: limit(most)?, after };
    let point = point_id(&*b, &text).await?;
    b.files(point, request).await.map(Json)
}

/// Files of a point whose names or paths fit a pattern.
///
/// In the order of the folders on the disk. A search that takes long answers after a second with what it has, which may
/// be nothing, and `next`.
#[utoipa::path(get, path = "/api/v1/points/{point}/find", tag = "points", params(("point" = String, Path, description = "Id of the point, or 4 or more of its first digits"), FindQuery), responses((status = 200, body = Findings<FileRow>), Problem))]
pub async fn find<B: Backend>(
    State(b): State<Arc<B>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer<Findings<FileRow>> {
    let FindQuery { pattern, partition, limit: most, after } = query(&uri)?;
    let request = FindRequest { partition, pattern, limit: limit(most)?, after: number(after)? };
    let point = point_id(&*b, &text).await?;
    b.find(point, request).await.map(Json)
}

/// How the files of two points differ.
///
/// Content is compared byte by byte. What only one point has is told once, not with all that is in it. A comparison that
/// takes long answers after a second with what it has, which may be nothing, and `next`.
#[utoipa::path(get, path = "/api/v1/points/{point}/diff", tag = "points", params(("point" = String, Path, description = "Id of the point, or 4 or more of its first digits"), DiffQuery), responses((status = 200, body = Findings<ChangeRow>), Problem))]
pub async fn diff<B: Backend>(
    State(b): State<Arc<B>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer<Findings<ChangeRow>> {
    let DiffQuery { with, partition, path, limit: most, after } = query(&uri)?;
    let path = path.unwrap_or_default();
    let request = DiffRequest { partition, path, limit: limit(most)?, after: number(after)? };
    let before = point_id(&*b, &text).await?;
    let after = point_id(&*b, &with).await?;
    b.diff(before, after, request).await.map(Json)
}

/// The place in a search that an answer named.
fn number(after: Option<String>) -> Result<u64> {
    let Some(after) = after else { return Ok(0) };
    after.parse().map_err(|error| strange_cursor(&error))
}
