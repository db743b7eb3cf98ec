use super::*;
use crate::api::types::ActionRow;
use crate::config::policy::Policies;
use crate::model::ids::Epoch;
use crate::model::point::CutSummary;
use crate::model::restoration::{
    Agreed, Conflict, DeviceMark, DeviceTarget, DiskMark, FilesTarget, Restoration, Target, Undo,
};
use crate::store::base::BaseSpec;
use crate::store::delta::tests::point;
use crate::store::restorations::RestorationRow;
use std::sync::Arc;
use tempfile::TempDir;

const BYTES: u64 = 1 << 20;

/// A hub without threads, and an agent that offers a disk.
struct Scene {
    hub: Hub,
    disk: Disk,
    _agent: mpsc::Receiver<ToAgent>,
    _dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("data"), Arc::new(random::id)).unwrap();
        let (notes, _) = mpsc::channel(1);
        let policies = PolicyBook::new(dir.path().join("policies"), Policies::default());
        let jobs = Jobs::new(store.clone(), notes);
        let mut hub = Hub::new(store, policies, jobs, Feed::default()).unwrap();
        let ((to_agent, _agent), (reply, mut joined)) = (mpsc::channel(64), oneshot::channel());
        let (agent, address): (AgentId, SocketAddr) =
            ("web1".parse().unwrap(), "127.0.0.1:1".parse().unwrap());
        hub.take(Note::Joined { agent: agent.clone(), address, to_agent, reply });
        let session = joined.try_recv().unwrap();
        let identity = DiskIdentity::Serial("A1".to_owned());
        let offer = Offer { identity, device: "/dev/sda".to_owned(), bytes: BYTES, problem: None };
        let message = ToDispatcher::Inventory { footprint: Footprint::default(), offers: vec![offer] };
        hub.take(Note::Said { agent, session, message });
        let disk = hub.store.disks().unwrap().remove(0);
        Self { hub, disk, _agent, _dir: dir }
    }

    /// An image of the disk is published.
    fn image(&self) -> Point {
        let spec = BaseSpec {
            action: ActionId(1),
            epoch: Epoch(7),
            bytes: BYTES,
            granule_shift: self.disk.granule_shift,
        };
        let mut writer = self.hub.store.begin_base(self.disk.id, spec).unwrap();
        writer.write_zeroes(0..BYTES).unwrap();
        let summary = CutSummary { at: Timestamp::now(), ..point().summary };
        let ready = writer.seal(summary).unwrap();
        self.hub.store.publish(vec![ready], Timestamp::now()).unwrap().remove(0)
    }

    /// A restore has begun to write to the disk, and was cancelled.
    fn half_restore(&self, action: ActionId, point: &Point) {
        let target = DeviceTarget { device: "/dev/sda".to_owned(), bytes: BYTES, whole: true, full: false };
        let disk = DiskMark::Hardware(self.disk.identity.clone());
        let device = DeviceMark { disk, partition: None, start: 0, bytes: BYTES };
        let agreed = Some(Agreed { device, protects: Some(self.disk.identity.clone()) });
        let row = RestorationRow {
            action,
            agent: self.disk.agent.clone(),
            restoration: Restoration { point: point.id, target: Target::Device(target), agreed },
            partition: None,
            paths: Vec::new(),
            allow_holes: false,
            undo: Undo::None,
            touched: true,
            durable_blocks: 0,
        };
        self.hub.store.put_restoration(&row).unwrap();
        self.hub.store.forget_restoration(action).unwrap();
    }

    fn row(&self, action: ActionId) -> ActionRow {
        self.hub.action_row(action).unwrap()
    }
}

#[test]
fn an_image_that_is_refused_does_not_make_a_disk_whole() {
    let mut scene = Scene::new();
    let asked = scene.hub.snapshot(scene.disk.id).unwrap().id;
    scene.hub.set_state(asked, ActionState::Paused, String::new());
    let base = scene.image();
    scene.half_restore(ActionId(5), &base);
    let refused = scene.hub.snapshot(scene.disk.id).unwrap_err();
    assert!(refused.message.contains("is paused"), "{refused}");
    assert_eq!(scene.image().half_restored, Some(ActionId(5)), "nobody took it for what it is");
    scene.hub.set_state(asked, ActionState::Queued, String::new());
    assert_eq!(scene.hub.snapshot(scene.disk.id).unwrap().id, asked);
    assert_eq!(scene.image().half_restored, None);
}

#[test]
fn a_restore_that_waits_for_its_turn_says_so() {
    let mut scene = Scene::new();
    let (point, agent) = (scene.image().id, scene.disk.agent.clone());
    let target = FilesTarget { folder: "/srv/restored".to_owned(), conflict: Conflict::Skip, dry_run: false };
    let restoration = Restoration { point, target: Target::Files(target), agreed: None };
    let action = scene.hub.restore_files_to(agent.clone(), restoration, vec![b"1:/etc".to_vec()]).unwrap().id;
    let _grant = scene.hub.grant_restore(&agent, action).unwrap();
    let under_way = scene.row(action);
    assert_eq!(under_way.state, ActionState::Running);
    scene.hub.take(Note::RestoreWaits { action, waits: true });
    let waits = scene.row(action);
    assert_eq!(waits.state, ActionState::Running);
    assert!(waits.reason.contains("waits until one of the 8"), "{}", waits.reason);
    scene.hub.take(Note::RestoreWaits { action, waits: false });
    assert_eq!(scene.row(action).reason, under_way.reason);
    scene.hub.set_state(action, ActionState::Paused, "paused".to_owned());
    scene.hub.take(Note::RestoreWaits { action, waits: true });
    assert_eq!(scene.row(action).reason, "paused", "its connection has not heard of it yet");
}
