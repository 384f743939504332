//! A compute whose disk has one gibibyte left, and that is otherwise another one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use async_trait::async_trait;
use events::{BranchName, DrillId, InstanceName};
use repository::Owner;
use restorer::compute::{
    Address, Compute, ComputeError, LocalCompute, Programs, ServerState, SiteLock, Stopping,
};
use restorer::site::Site;

pub(crate) struct Full(pub(crate) Arc<LocalCompute>);

#[async_trait]
impl Compute for Full {
    async fn free_bytes(&self) -> Option<u64> {
        Some(1 << 30)
    }

    fn site(&self, instance: &InstanceName, branch: &BranchName) -> Site {
        self.0.site(instance, branch)
    }

    fn drill_site(&self, instance: &InstanceName, branch: &BranchName, id: DrillId) -> Site {
        self.0.drill_site(instance, branch, id)
    }

    async fn drills(&self) -> Result<Vec<DrillId>, ComputeError> {
        self.0.drills().await
    }

    async fn sites(&self) -> Result<Vec<Site>, ComputeError> {
        self.0.sites().await
    }

    async fn lock(&self, site: &Site) -> Result<SiteLock, ComputeError> {
        self.0.lock(site).await
    }

    async fn unlock_for_good(&self, site: &Site, lock: SiteLock) -> Result<(), ComputeError> {
        self.0.unlock_for_good(site, lock).await
    }

    fn holder(&self) -> Result<String, ComputeError> {
        self.0.holder()
    }

    fn address(&self) -> &Address {
        self.0.address()
    }

    fn owner(&self) -> Option<Owner> {
        self.0.owner()
    }

    async fn programs(&self, major: u32) -> Result<Programs, ComputeError> {
        self.0.programs(major).await
    }

    async fn create(&self, site: &Site) -> Result<(), ComputeError> {
        self.0.create(site).await
    }

    async fn free_port(&self, taken: &BTreeSet<u16>) -> Result<u16, ComputeError> {
        self.0.free_port(taken).await
    }

    async fn write(&self, path: &Path, text: &[u8]) -> Result<(), ComputeError> {
        self.0.write(path, text).await
    }

    async fn run(&self, program: &Path, arguments: &[&str]) -> Result<String, ComputeError> {
        self.0.run(program, arguments).await
    }

    async fn output(&self, program: &Path, arguments: &[&str]) -> Result<Output, ComputeError> {
        self.0.output(program, arguments).await
    }

    async fn start(&self, site: &Site, programs: &Programs, port: u16) -> Result<(), ComputeError> {
        self.0.start(site, programs, port).await
    }

    async fn state(&self, site: &Site) -> Result<ServerState, ComputeError> {
        self.0.state(site).await
    }

    async fn stop(&self, site: &Site, how: Stopping) -> Result<(), ComputeError> {
        self.0.stop(site, how).await
    }

    async fn remove(&self, site: &Site) -> Result<(), ComputeError> {
        self.0.remove(site).await
    }
}
