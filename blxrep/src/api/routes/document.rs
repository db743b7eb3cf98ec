//! The API as an OpenAPI document: made from the handlers and the types of their answers.

use super::{browse, exports};
use crate::api::error::ErrorBody;
use crate::api::events::Event;
use crate::api::page::MAX_LIMIT;
use axum::Json;
use serde::Deserialize;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{OpenApi as Document, PathItem, RefOr};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi};

/// The query of lists without a filter.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: a list's query is read as a whole")]
pub struct WindowQuery {
    /// Items of the answer: 1 to 1000, 200 without it.
    limit: Option<u32>,
    /// What an answer had as its `next`.
    after: Option<String>,
}

/// The query of what concerns an agent's disks, or one.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described: a list's query is read as a whole")]
pub struct FilterQuery {
    /// Id of the agent.
    agent: Option<String>,
    /// Device, identity or id of the disk.
    disk: Option<String>,
}

/// What every request may be answered with instead.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only described: the codes of errors say which it is")]
pub(super) enum Problem {
    /// `invalid`: the request makes no sense as it stands.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// `refused`: the caller may not use the API at all.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// `not_found`: no such agent, disk, point, action, file or route.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// `refused`: understood, and not allowed or not possible here; `unconfirmed`: asked again with `yes` it is done.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// `failed`: tried, and it failed.
    #[response(status = 500)]
    Failed(ErrorBody),
    /// `unavailable`: cannot be done now; ask again.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// What happens, as it happens.
///
/// Server-sent events from here on, until the caller goes; each has a name and an `Event` as its data. A listener that is too
/// slow is told how many it missed.
#[utoipa::path(get, path = "/api/v1/events", tag = "watching",
    responses((status = 200, body = Event, content_type = "text/event-stream"), Problem))]
#[expect(dead_code, reason = "only described: the route is a closure over the end of the dispatcher")]
const fn events() {}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "watching",
    responses((status = 200, description = "OpenAPI 3.1", body = Object), Problem))]
pub(super) async fn document() -> Json<Document> {
    Json(openapi())
}

/// The document.
#[must_use]
pub fn openapi() -> Document {
    Api::openapi()
}

/// What ids and sizes of lists may be, said of every parameter of those names.
struct Bounds;

impl Modify for Bounds {
    fn modify(&self, document: &mut Document) {
        let operations = document.paths.paths.values_mut().flat_map(operations);
        for parameter in operations.filter_map(|operation| operation.parameters.as_mut()).flatten() {
            let RefOr::T(parameter) = parameter else { continue };
            let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else { continue };
            match (parameter.name.as_str(), &parameter.parameter_in) {
                ("point" | "action", ParameterIn::Path) => {
                    schema.pattern = Some("^[0-9A-Fa-f]{4,16}$".to_owned());
                }
                ("limit" | "newest", _) => {
                    (schema.minimum, schema.maximum) = (Some(1.into()), Some(MAX_LIMIT.into()));
                }
                _ => {}
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.delete].into_iter().flatten()
}

#[derive(OpenApi)]
#[openapi(
    modifiers(&Bounds),
    info(
        title = "blxrep",
        description = "The control plane of a blxrep dispatcher: HTTP/1.1 with JSON on the Unix socket `control.sock` in its data \
                       directory.\n\nAgents, disks, points and actions are named as a person names them: a disk by its device, identity or \
                       id, a point or action by its id or 4 or more of its first digits. Ids are hex digits, times RFC 3339, sizes \
                       bytes; what is not known is `null`. Fields are added, never renamed.\n\nNames of files are bytes. As text, `%` and \
                       two hex digits are one byte, and a `%` itself is `%25`; in a URL such a text is encoded once more, as any other.\n\n\
                       Every answer that is no success has the body `ErrorBody`; its `code` is stable."
    ),
    servers((url = "http://localhost", description = "Through the Unix socket")),
    paths(
        super::metrics, document, events, super::status, super::agents, super::agent, super::disks, super::policies,
        super::points, super::point, super::chain, browse::partitions, browse::files, browse::find, browse::diff,
        super::mounts, super::mount, super::unmount, exports::exports, exports::export, exports::stop_export, super::actions, super::action, super::report, super::files_report, super::pause,
        super::resume, super::cancel, super::snapshot, super::sync, super::restore, super::verify, super::verify_source,
        super::consolidate, super::consolidation_plan
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "watching", description = "What there is, and how it is"),
        (name = "points", description = "Recovery points, and what is in them"),
        (name = "mounts", description = "Points as folders and network block devices of the dispatcher's host"),
        (name = "actions", description = "What is being done, and how it went"),
        (name = "doing", description = "What can be asked for")
    )
)]
struct Api;
