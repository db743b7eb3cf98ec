//! The policies in force, read again when their files change.

use crate::config::policy::Policies;
use crate::model::ids::AgentId;
use crate::model::policy::{EffectivePolicy, VerifyRule};
use crate::model::retention::Retention;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Policies of one directory.
#[derive(Debug)]
pub struct PolicyBook {
    dir: PathBuf,
    policies: Policies,
    /// What went wrong when they were read last, so that it is said once.
    trouble: Option<String>,
    /// What was said of each agent's policy, so that it is said once.
    said: BTreeMap<AgentId, Vec<String>>,
}

impl PolicyBook {
    pub const fn new(dir: PathBuf, policies: Policies) -> Self {
        Self { dir, policies, trouble: None, said: BTreeMap::new() }
    }

    /// The policy that names the agent.
    pub fn for_agent(&mut self, agent: &AgentId) -> Option<EffectivePolicy> {
        let chosen = self.policies.for_agent(agent)?;
        if self.said.get(agent) != Some(&chosen.notes) {
            for note in &chosen.notes {
                tracing::info!(%agent, %note, "policy");
            }
            self.said.insert(agent.clone(), chosen.notes);
        }
        Some(chosen.policy)
    }

    /// Folder of the files, the policies in force, and why the files could not be read when they were looked at last.
    pub fn contents(&self) -> (&Path, &Policies, Option<&str>) {
        (&self.dir, &self.policies, self.trouble.as_deref())
    }

    /// Name of the policy that names the agent.
    pub fn name_for(&self, agent: &AgentId) -> Option<String> {
        self.policies.for_agent(agent).map(|chosen| chosen.policy.name)
    }

    /// How long points of the agent are kept.
    pub fn retention(&self, agent: &AgentId) -> Retention {
        self.policies.for_agent(agent).map(|chosen| chosen.retention).unwrap_or_default()
    }

    /// How often what is stored of the agent is to be verified.
    pub fn verify_rule(&self, agent: &AgentId) -> Option<VerifyRule> {
        self.policies.for_agent(agent)?.verify
    }

    /// Reads the files again. If one cannot be used, those in force stay.
    pub fn reload(&mut self) {
        match Policies::load(&self.dir) {
            // More likely a filesystem that is not mounted now than somebody's wish to protect nothing any more.
            Ok(policies) if policies.is_empty() && !self.policies.is_empty() => {
                self.complain("there are none any more: remove their targets to protect nobody".to_owned());
            }
            Ok(policies) => {
                self.trouble = None;
                if policies != self.policies {
                    tracing::info!(dir = %self.dir.display(), "policies have changed");
                    self.policies = policies;
                }
            }
            Err(error) => self.complain(error.to_string()),
        }
    }

    fn complain(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            let dir = self.dir.display();
            tracing::warn!(%dir, %trouble, "policies were not read again; those in force stay");
        }
        self.trouble = Some(trouble);
    }
}
