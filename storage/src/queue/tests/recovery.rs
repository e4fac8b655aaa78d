use std::panic::AssertUnwindSafe;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::world::{BATCHES, World, recover};
use crate::disk::{DiskFaults, SimulatedDisk};
use crate::queue::{Distrust, QueueRecovery, QueueRecoveryError};
use crate::{PhysicalOffset, QueueId};

#[derive(Clone, Copy, Debug)]
enum Op {
    Append {
        queue: u8,
        count: u8,
    },
    Dispatch,
    Write,
    Sync,
    /// Removes this share of the log that is noted, in percent.
    Retain(u8),
    /// Keeps this share of the log, in percent.
    Truncate(u8),
    Kill,
    /// Keeps this share of the log behind the note, in percent.
    PowerCut(u8),
    Close,
    /// Dies at a step of what comes next: by a power cut, or killed.
    Die {
        step: u8,
        power: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..4_u8, 1..60_u8).prop_map(|(queue, count)| Op::Append { queue, count }),
        6 => Just(Op::Dispatch),
        2 => Just(Op::Write),
        2 => Just(Op::Sync),
        1 => (0..=100_u8).prop_map(Op::Retain),
        1 => (50..=100_u8).prop_map(Op::Truncate),
        1 => Just(Op::Kill),
        2 => (0..=100_u8).prop_map(Op::PowerCut),
        1 => Just(Op::Close),
        3 => (0..24_u8, any::<bool>()).prop_map(|(step, power)| Op::Die { step, power }),
    ]
}

/// The bound of a record that lies `percent` of the way from `from` to `to`.
fn bound(world: &World, from: PhysicalOffset, to: PhysicalOffset, percent: u8) -> PhysicalOffset {
    let bounds: Vec<_> = world.log.bounds().into_iter().filter(|at| from <= *at && *at <= to).collect();
    bounds[(bounds.len() - 1) * usize::from(percent) / 100]
}

/// Does `op`; true when the disk died in it.
fn apply(mut world: World, op: Op) -> (World, bool) {
    let noted = world.complete_to.unwrap_or_default();
    let mut died = false;
    match op {
        Op::Append { queue, count } => (0..count).for_each(|n| world.append(queue, u16::from(n % 4) + 1)),
        Op::Dispatch => world.dispatch(),
        Op::Write => died |= world.table.write_pending().is_err(),
        Op::Sync => died |= world.sync().is_err(),
        Op::Retain(percent) => {
            let min = bound(&world, PhysicalOffset(0), noted, percent);
            died |= world.retain(min).is_err();
        }
        Op::Truncate(percent) => {
            let end = bound(&world, world.log.min, world.log.end(), percent);
            died |= world.truncate(end).is_err();
        }
        Op::Kill => {
            let disk = world.disk.kill();
            world = world.reopen(disk, false);
        }
        Op::PowerCut(percent) => {
            let end = bound(&world, noted, world.log.end(), percent);
            world.log.cut(end);
            let disk = world.disk.crash();
            world = world.reopen(disk, false);
        }
        Op::Close => {
            world.dispatch();
            if world.sync().is_err() {
                return (world, true);
            }
            let disk = world.disk.crash();
            world = world.reopen(disk, true);
            assert_eq!(
                world.report,
                QueueRecovery { walked_from: world.log.end(), ..QueueRecovery::default() }
            );
        }
        Op::Die { step, .. } => world.disk.crash_at_step(world.disk.steps() + u64::from(step)),
    }
    (world, died)
}

fn cases(default: u32) -> ProptestConfig {
    let times = std::env::var("STATICFIRE_CASES").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    ProptestConfig { cases: default * times, failure_persistence: None, ..ProptestConfig::default() }
}

/// Does all of `ops` and compares the queues with the log after each.
fn live_through(mut world: World, ops: &[Op]) {
    let mut by_power = None;
    for op in ops {
        if let Op::Die { power, .. } = *op {
            by_power = Some(power);
        }
        let (next, died) = apply(world, *op);
        world = next;
        if died || world.disk.is_gone() {
            let power = by_power.take().expect("nothing else fails");
            let disk = if power { world.disk.crash() } else { world.disk.kill() };
            world = world.reopen(disk, false);
        }
        world.check();
    }
    if world.log.min == PhysicalOffset(0) && by_power.is_none() {
        world.check_files();
    }
}

proptest! {
    #![proptest_config(cases(200))]

    /// proves: I5, I12, I13, I14, I15, I17, I48, Z15, Z16
    #[test]
    fn queues_are_what_the_log_says(
        seed in any::<u64>(),
        file_entries in prop_oneof![Just(50_u64), Just(450)],
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        live_through(World::new(seed, file_entries), &ops);
    }
}

/// Lines of this module that ask for syncs, except those with tests of their own below.
fn sync_sites() -> Vec<String> {
    let mut world = noted(50, 60);
    (0..60).for_each(|_| world.append(0, 1));
    world.dispatch();
    world.sync().unwrap();
    let end = world.log.bounds()[30];
    world.truncate(end).unwrap();
    let sites = world.disk.sync_sites().into_iter().map(|count| count.site);
    sites.filter(|site| site.contains("queue/")).collect()
}

/// Leaves out each sync in turn and lives through random histories until one shows it.
///
/// proves: that none of the syncs is for nothing, and that the test above would miss none
#[test]
fn each_sync_is_needed() {
    let mut runner = TestRunner::deterministic();
    let histories = proptest::collection::vec(op(), 40..80);
    let histories: Vec<_> = (0..400).map(|_| histories.new_tree(&mut runner).unwrap().current()).collect();
    let sites = sync_sites();
    assert!(sites.len() >= 2, "{sites:?}");
    for site in sites {
        let shows = |(seed, ops): (usize, &Vec<Op>)| {
            let world = World::new(seed as u64, 50);
            world.disk.set_faults(DiskFaults::calm().ignoring_syncs_at(&site));
            let lived = std::panic::catch_unwind(AssertUnwindSafe(|| live_through(world, ops)));
            lived.is_err()
        };
        let shown = histories.iter().enumerate().position(shows);
        println!("{site}: shown by history {shown:?}");
        assert!(shown.is_some(), "nothing is lost without the sync at {site}");
    }
}

/// proves: that a removed topic stays removed, and with it the sync that this takes
#[test]
fn a_removed_topic_does_not_come_back() {
    for (site, expected) in [("", 0), ("queue/slots/durable.rs", 1)] {
        let mut world = noted(50, 60);
        if !site.is_empty() {
            world.disk.set_faults(DiskFaults::calm().ignoring_syncs_at(site));
        }
        world.table.remove_topic("orders").unwrap();
        let mut back = 0;
        for image in world.disk.crash_images(200) {
            let table =
                recover(image.completing_at_once().directory(), 50, &world.log, world.complete_to, false);
            back += usize::from(!table.unwrap().0.of_topic("orders").is_empty());
        }
        assert_eq!(back.min(1), expected, "without the sync at {site:?}");
        world.log.min = world.log.end();
    }
}

/// A queue without a readable message has its numbers in its files only.
///
/// proves: I14, and the sync before a repaired file takes its name
#[test]
fn repairing_a_short_file_keeps_its_numbers() {
    for (site, expected) in [("", 0), ("queue/load.rs", 1)] {
        let mut world = noted(50, 210);
        let end = world.log.end();
        world.retain(end).unwrap();
        world.disk.edit("consumequeue/orders/1/00000000000000004000", |bytes| bytes.truncate(900)).unwrap();
        let mut lost = 0;
        for step in 0..20 {
            let disk = world.disk.snapshot().completing_at_once();
            if !site.is_empty() {
                disk.set_faults(DiskFaults::calm().ignoring_syncs_at(site));
            }
            disk.crash_at_step(step);
            let _died = recover(disk.directory(), 50, &world.log, world.complete_to, true);
            for image in disk.crash_images(16) {
                let again =
                    recover(image.completing_at_once().directory(), 50, &world.log, world.complete_to, false);
                let queue = again.unwrap().0.find("orders", QueueId(1));
                lost += usize::from(queue.is_none_or(|queue| queue.numbering().0 != 210));
            }
        }
        assert_eq!(lost.min(1), expected, "without the sync at {site:?}");
    }
}

/// A store with a few files in each queue, all noted.
fn noted(file_entries: u64, rounds: u16) -> World {
    let mut world = World::new(1, file_entries);
    for n in 0..rounds {
        (0..4).for_each(|queue| world.append(queue, n % 4 + 1));
    }
    world.dispatch();
    world.sync().unwrap();
    world.check_files();
    world
}

/// proves: I13, Z17
#[test]
fn removed_queues_are_built_again_byte_for_byte() {
    let world = noted(50, 230);
    let before = World::files(&world.disk);
    for folders in [
        &["consumequeue/orders/1/", "consumequeue/orders/2/00000000000000001000"][..],
        &["consumequeue/", "batchconsumequeue/", "staticfire/"],
        &["consumequeue/orders/0/00000000000000004000"],
        &["batchconsumequeue/"],
    ] {
        let disk = world.disk.snapshot().completing_at_once();
        let directory = disk.directory();
        for path in disk.paths().iter().filter(|path| folders.iter().any(|folder| path.starts_with(folder))) {
            directory.remove(path).unwrap();
        }
        let world = World::open(disk, 50, world.log.clone(), world.complete_to, false);
        assert!(!world.report.queues.is_empty(), "{folders:?}");
        world.check();
        assert!(World::files(&world.disk) == before, "{folders:?}");
    }
}

/// proves: I15, I18
#[test]
fn damage_of_noted_entries_is_found_and_built_again() {
    let world = noted(450, 700);
    let before = World::files(&world.disk);
    let last = "consumequeue/orders/1/00000000000000009000";
    let middle = "consumequeue/orders/1/00000000000000000000";
    // The newest block is compared at recovery, any other one when it is read.
    let disk = world.disk.snapshot();
    disk.edit(last, |bytes| bytes[4900..5000].fill(0)).unwrap();
    let healed = World::open(disk, 450, world.log.clone(), world.complete_to, true);
    let found = &healed.report.queues[0];
    assert_eq!(found.distrusted, Some(Distrust::Block { path: last.into(), at: 4096 }));
    assert_eq!((found.topic.as_str(), found.queue, found.added), ("orders", QueueId(1), 5));
    healed.check();
    assert!(World::files(&healed.disk) == before);

    let disk = world.disk.snapshot();
    disk.flip_bit(middle, 4097 * 8).unwrap();
    let open = World::open(disk, 450, world.log.clone(), world.complete_to, true);
    let queue = open.table.find("orders", QueueId(1)).unwrap();
    assert_eq!(queue.entries(crate::QueueOffset(0), 100).unwrap().len(), 100, "another block");
    for _ in 0..2 {
        let damaged = queue.entries(crate::QueueOffset(200), 10).unwrap_err().to_string();
        assert!(damaged.contains(middle) && damaged.contains("4096"), "{damaged}");
    }
    // Without the note everything is compared with the log.
    let disk = open.disk.snapshot();
    let healed = World::open(disk, 450, open.log.clone(), None, false);
    assert_eq!(healed.report.queues[0].repaired, 1);
    assert!(World::files(&healed.disk) == before);
}

/// A spoiled first sector does not look like a queue that begins later, nor one like a block that nobody
/// wrote yet.
/// proves: I13, I14, F14
#[test]
fn damage_at_the_front_of_a_block_does_not_pass_for_its_end() {
    let world = noted(450, 300);
    let before = World::files(&world.disk);
    let first = "consumequeue/orders/1/00000000000000000000";
    for (sector, spoil) in [(0..512, 0xff), (0..512, 0), (4096..4608, 0xff), (4096..4608, 0)] {
        let disk = world.disk.snapshot();
        disk.edit(first, |bytes| bytes[sector.clone()].fill(spoil)).unwrap();
        let healed = World::open(disk, 450, world.log.clone(), world.complete_to, false);
        healed.check();
        assert!(World::files(&healed.disk) == before, "{sector:?} filled with {spoil}");
    }
}

/// proves: store-format §2 (lengths), I20
#[test]
fn files_of_the_wrong_length_are_told_apart() {
    let world = noted(50, 230);
    let before = World::files(&world.disk);
    let short = "consumequeue/orders/0/00000000000000003000";
    let disk = world.disk.snapshot();
    disk.edit(short, |bytes| bytes.truncate(400)).unwrap();
    disk.put("consumequeue/orders/0/00000000000000005000", &[]).unwrap();
    disk.put("consumequeue/orders/0/notes.txt", b"mine").unwrap();
    let healed = World::open(disk, 50, world.log.clone(), world.complete_to, true);
    assert_eq!(healed.report.queues[0].distrusted, Some(Distrust::ShortFile { path: short.into() }));
    assert_eq!(healed.report.strangers, ["consumequeue/orders/0/notes.txt"]);
    healed.check();
    healed.disk.directory().remove("consumequeue/orders/0/notes.txt").unwrap();
    assert!(World::files(&healed.disk) == before);

    for wrong in [40, 60, 100] {
        let disk = world.disk.snapshot().completing_at_once();
        let refused = recover(disk.directory(), wrong, &world.log, world.complete_to, true);
        assert!(matches!(refused, Err(QueueRecoveryError::Queue(_))), "{wrong} entries in a file");
        assert!(World::files(&disk) == before, "nothing was changed");
    }
}

/// proves: I14 in a log with a hole
#[test]
fn a_hole_in_the_log_keeps_the_numbers_behind_it() {
    let world = noted(50, 230);
    let bounds = world.log.bounds();
    let mut log = world.log.clone();
    log.holes.push(bounds[400].0..bounds[500].0);
    for lose_files in [false, true] {
        let disk = world.disk.snapshot().completing_at_once();
        if lose_files {
            for path in World::files(&disk).keys() {
                disk.directory().remove(path).unwrap();
            }
        }
        let (table, report) = recover(disk.directory(), 50, &log, None, false).unwrap();
        let queue = table.find("orders", QueueId(1)).unwrap();
        assert_eq!((queue.min().0, queue.max().0), (0, 230));
        let entries = queue.entries(queue.min(), 230).unwrap();
        let padding = entries.iter().filter(|entry| entry.is_padding()).count();
        assert_eq!(padding, if lose_files { 25 } else { 0 });
        let found = report.queues.iter().find(|found| found.queue == QueueId(1)).unwrap();
        assert_eq!((found.padded, found.kept), if lose_files { (25, 0) } else { (0, 25) });
        assert_eq!(
            table.find(BATCHES, QueueId(0)).unwrap().max(),
            world.table.find(BATCHES, QueueId(0)).unwrap().max()
        );
    }
}

/// proves: store-format §5.4: padding is no record that ends at 2 GiB
#[test]
fn a_cut_behind_padding_leaves_a_queue_that_goes_on() {
    let world = noted(50, 230);
    let bounds = world.log.bounds();
    let mut log = world.log.clone();
    log.holes.push(bounds[400].0..bounds[500].0);
    let disk = SimulatedDisk::new(1).completing_at_once();
    let (table, _) = recover(disk.directory(), 50, &log, None, false).unwrap();
    let queue = table.find("orders", QueueId(1)).unwrap();
    let behind = queue.entry(crate::QueueOffset(125)).unwrap();
    assert!(queue.entry(crate::QueueOffset(124)).unwrap().is_padding());
    table.truncate(behind.physical).unwrap();
    assert_eq!(queue.max().0, 125);
    queue.push(&behind, 1).unwrap();
    assert_eq!(queue.entry(crate::QueueOffset(125)).unwrap(), behind);
}

/// What may happen to a file beside our back.
#[derive(Clone, Debug)]
enum Damage {
    Remove,
    Truncate(u16),
    Zero { at: u16, len: u16 },
    Write { at: u16, bytes: Vec<u8> },
}

fn damage() -> impl Strategy<Value = (u8, Damage)> {
    let damage = prop_oneof![
        Just(Damage::Remove),
        (1..1000_u16).prop_map(Damage::Truncate),
        (0..1000_u16, 1..1000_u16).prop_map(|(at, len)| Damage::Zero { at, len }),
        (0..1000_u16, proptest::collection::vec(any::<u8>(), 1..60))
            .prop_map(|(at, bytes)| Damage::Write { at, bytes }),
    ];
    (any::<u8>(), damage)
}

fn harm(disk: &SimulatedDisk, path: &str, damage: &Damage) {
    let change = |bytes: &mut Vec<u8>| match damage {
        Damage::Remove => (),
        Damage::Truncate(len) => bytes.truncate(usize::from(*len)),
        Damage::Zero { at, len } => {
            bytes.iter_mut().skip(usize::from(*at)).take(usize::from(*len)).for_each(|byte| *byte = 0);
        }
        Damage::Write { at, bytes: new } => {
            bytes.iter_mut().skip(usize::from(*at)).zip(new).for_each(|(byte, new)| *byte = *new);
        }
    };
    match damage {
        Damage::Remove => disk.directory().remove(path).unwrap(),
        _ => disk.edit(path, change).unwrap(),
    }
}

proptest! {
    #![proptest_config(cases(40))]

    /// proves: I15, I18, I72, B67: whatever happens to the files of the queues, no wrong entry is
    /// read, and without the note nothing of it is left
    #[test]
    fn no_damage_makes_a_queue_lie(
        file_entries in prop_oneof![Just(50_u64), Just(450)],
        harms in proptest::collection::vec(damage(), 1..4),
        with_sums in any::<bool>(),
    ) {
        let world = noted(file_entries, 500);
        let disk = world.disk.snapshot().completing_at_once();
        let paths: Vec<_> = World::files(&disk).into_keys().filter(|path| with_sums || !path.contains("sums")).collect();
        for (which, damage) in &harms {
            let path = &paths[usize::from(*which) % paths.len()];
            if disk.contents(path).is_ok() {
                harm(&disk, path, damage);
            }
        }
        World::open(disk.snapshot(), file_entries, world.log.clone(), None, false).check();
        if with_sums {
            // Damage of both may agree by chance or by malice; that it does no harm is all.
            let _any = recover(disk.directory(), file_entries, &world.log, world.complete_to, true);
            return Ok(());
        }
        let (table, report) = recover(disk.directory(), file_entries, &world.log, world.complete_to, true).unwrap();
        for ((topic, id), expected) in world.log.queues(world.log.end()) {
            let queue = table.find(&topic, QueueId(id)).unwrap();
            prop_assert_eq!(queue.numbering(), expected.last().unwrap().next(), "{} {}: {}", topic, id, report);
            for entry in &expected {
                match queue.entry(entry.offset) {
                    Ok(found) => prop_assert_eq!(found, *entry),
                    Err(error) => prop_assert!(matches!(error, crate::QueueError::Damaged { .. }), "{}", error),
                }
            }
        }
    }
}

/// Dies at each step of recovery and recovers again, for several images of a power cut.
///
/// proves: I17, Z43
#[test]
fn recovery_may_die_at_any_step() {
    let mut world = noted(50, 60);
    for n in 0..50_u16 {
        (0..4).for_each(|queue| world.append(queue, n % 4 + 1));
    }
    world.dispatch();
    world.table.write_pending().unwrap();
    let bounds = world.log.bounds();
    let mut tried = 0;
    for (n, image) in world.disk.crash_images(12).enumerate() {
        let mut log = world.log.clone();
        log.cut(bounds[bounds.len() - 1 - n * 10]);
        for step in 0.. {
            let disk = image.snapshot().completing_at_once();
            disk.crash_at_step(step);
            let died = recover(disk.directory(), 50, &log, world.complete_to, false).is_err();
            if !died {
                break;
            }
            tried += 1;
            let disk = if step % 2 == 0 { disk.crash() } else { disk.kill() };
            let healed = World::open(disk, 50, log.clone(), world.complete_to, false);
            healed.check();
            healed.check_files();
        }
    }
    assert!(tried > 100, "{tried} deaths");
}

/// A disk with no room keeps entries in memory and takes them later.
///
/// proves: I11
#[test]
fn a_full_disk_costs_nothing_but_memory() {
    let mut world = World::new(3, 50);
    world.disk.set_faults(DiskFaults::calm().with_space(0));
    (0..600).for_each(|_| world.append(1, 1));
    world.dispatch();
    assert!(world.table.write_pending().is_err());
    world.check();
    world.disk.set_faults(DiskFaults::calm());
    world.sync().unwrap();
    world.check_files();
    let disk: SimulatedDisk = world.disk.crash();
    world.reopen(disk, false).check();
}
