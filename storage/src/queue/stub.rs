//! Queues are rebuilt by walking the whole log.
/// What recovery of the queues did.
#[derive(Clone, Debug, Default)]
pub struct QueueRecovery;
impl std::fmt::Display for QueueRecovery {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}
impl super::QueueTable {
    /// Builds all queues from the log.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn recover(
        self: &std::sync::Arc<Self>,
        log: &dyn crate::dispatch::LogRecords,
        rules: &crate::dispatch::DispatchRules,
        min: crate::PhysicalOffset,
        end: crate::PhysicalOffset,
        _c: crate::PhysicalOffset,
    ) -> Result<QueueRecovery, crate::dispatch::DispatchError> {
        let mut d = crate::dispatch::Dispatcher::new(std::sync::Arc::clone(self), rules.clone(), vec![], min);
        while d.dispatched() < end {
            let b = d.dispatched();
            if d.step(log, end, 10000)? == b {
                break;
            }
        }
        Ok(QueueRecovery)
    }
}
