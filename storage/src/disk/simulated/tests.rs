use super::*;
use crate::disk::conformance::{self, Subject};

/// The seed of the failing run is in the name of the panic's subject.
#[test]
fn a_simulated_disk_conforms() {
    for seed in 0..50 {
        conformance::run(|| {
            let disk = SimulatedDisk::new(seed);
            let pumped = disk.clone();
            Subject::new(disk.directory()).pumped_by(move || _ = pumped.complete_all())
        });
        conformance::run(|| Subject::new(SimulatedDisk::new(seed).completing_at_once().directory()));
    }
}
