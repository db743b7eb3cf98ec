//! The control plane: what a person or a script can see and do.
//!
//! HTTP/1.1 with JSON over the Unix socket `<data-dir>/control.sock`. The command line and the terminal interface
//! use only this; the dispatcher implements [`backend::Backend`] and hands it to [`server::serve`].
//!
//! | request | answer |
//! |---|---|
//! | `GET /metrics` | gauges as OpenMetrics text ([`metrics`]); also over TCP, if configured |
//! | `GET /api/v1/events` | server-sent [`events::Event`]s from here on, until the caller goes |
//! | `GET /api/v1/status` | [`types::DispatcherStatus`] |
//! | `GET /api/v1/agents`, `GET /api/v1/agents/{agent}` | [`page::Page`]`<`[`types::AgentRow`]`>`, [`types::AgentDetail`] |
//! | `GET /api/v1/disks?agent=` | [`page::Page`]`<`[`types::DiskRow`]`>` |
//! | `GET /api/v1/policies` | [`policies::PolicyList`] |
//! | `GET /api/v1/points?agent=&disk=` | [`page::Page`]`<`[`types::PointRow`]`>`, disk after disk as they were published; with `newest=`, those alone, oldest cut first |
//! | `GET /api/v1/points/{point}` | [`types::PointRow`] |
//! | `GET /api/v1/points/{point}/partitions` | [`browse::Findings`]`<`[`browse::PartitionRow`]`>` |
//! | `GET /api/v1/points/{point}/files?partition=&path=&limit=&after=` | [`browse::Findings`]`<`[`browse::FileRow`]`>` |
//! | `GET /api/v1/points/{point}/find?pattern=&partition=&limit=&after=` | [`browse::Findings`]`<`[`browse::FileRow`]`>` |
//! | `GET /api/v1/points/{point}/diff?with=&partition=&path=&limit=&after=` | [`browse::Findings`]`<`[`browse::ChangeRow`]`>` |
//! | `GET /api/v1/points/{point}/chain` | [`chain::PointChain`]: its files, for a process on the same host |
//! | `GET /api/v1/actions?agent=&disk=&newest=`, `GET /api/v1/actions/{action}` | [`page::Page`]`<`[`types::ActionRow`]`>`, oldest first; one |
//! | `GET /api/v1/actions/{action}/report` | [`types::VerifyReport`] of a verify |
//! | `GET /api/v1/actions/{action}/files` | [`types::FilesReport`] of a restore of files |
//! | `POST /api/v1/actions/{action}/pause`, `/resume`, `/cancel` | [`types::ActionRow`] |
//! | `POST /api/v1/snapshots` [`types::SnapshotBody`] | [`types::ActionRow`] |
//! | `POST /api/v1/syncs` [`types::SyncBody`] | `[`[`types::SyncRow`]`]` |
//! | `POST /api/v1/restores` [`types::RestoreBody`] | [`types::ActionRow`] |
//! | `POST /api/v1/verifications` [`types::VerifyBody`] | [`types::ActionRow`] |
//! | `POST /api/v1/verifications/source` [`types::SourceBody`] | [`types::ActionRow`] |
//!
//! | `GET /api/v1/mounts` | [`page::Page`]`<`[`mounts::MountRow`]`>` |
//! | `POST /api/v1/mounts` [`mounts::MountBody`], `DELETE /api/v1/mounts?directory=` | [`mounts::MountRow`] |
//! | `GET /api/v1/exports` | [`page::Page`]`<`[`exports::ExportRow`]`>` |
//! | `POST /api/v1/exports` [`exports::ExportBody`], `DELETE /api/v1/exports?uri=` | [`exports::ExportRow`] |
//!
//! Lists take `limit` and `after` ([`page`]).
//!
//! Agents, disks, points and actions are named in a request as a person names them ([`resolve`]). Everything that
//! is not done is answered with the status of its [`error::ErrorCode`] and `{"error":{"code","message"}}`.

pub mod backend;
pub mod browse;
pub mod chain;
pub mod client;
pub mod consolidation;
pub mod error;
pub mod events;
pub mod exports;
pub mod listener;
pub mod metrics;
pub mod mounts;
pub mod page;
pub mod policies;
pub mod resolve;
pub mod routes;
pub mod server;
pub mod socket;
pub mod text;
pub mod types;

pub use routes::router;
