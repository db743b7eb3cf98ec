//! Points that the dispatcher serves as network block devices.

use crate::model::part_id::PartId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A point that is served. It ends when it is told to, and with the dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportRow {
    /// Id of the point.
    pub point: String,
    /// 0 is the whole disk.
    pub partition: PartId,
    /// Where clients of the NBD protocol connect: `nbd+unix:///?socket=/run/p.sock` or `nbd://127.0.0.1:10809`.
    pub uri: String,
    /// Of the device.
    pub bytes: u64,
    /// Whether clients may write; what they write is not kept.
    pub writable: bool,
    /// The process that serves it.
    pub process: u32,
    pub since: Timestamp,
    pub state: ExportState,
}

/// Whether an export can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportState {
    Served,
    /// It was stopped just now.
    Stopped,
}

/// `POST /api/v1/exports`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportBody {
    pub point: String,
    /// `unix:` and an absolute path on the dispatcher's host, or an address and port of its loopback; port 0 is any that
    /// is free.
    pub address: String,
    /// One partition, by its number, or one volume, by its name; 0 is the whole disk.
    #[serde(default)]
    pub partition: PartId,
    /// Let clients write. What they write goes to a file without a name in the dispatcher's `$TMPDIR`, or `/var/tmp`, at
    /// most 8 GiB, and is gone when the export ends.
    #[serde(default)]
    pub writable: bool,
}

/// The query of `DELETE /api/v1/exports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct StopQuery {
    /// As the listing has it.
    pub uri: String,
}
