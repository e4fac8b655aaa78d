//! The ends of a simulated machine: power loss, in one way or in every way, and a killed process.

use super::SimulatedDisk;
use super::content::{Kept, WORD};
use super::image::{Image, Question};
use super::random::{Random, mix};
use super::state::State;

/// Torn images added to a complete enumeration, for each sector that is not synced.
const TORN_PER_SECTOR: usize = 4;

impl SimulatedDisk {
    /// Dies instead of taking step number `step` (0 is the first): this and every later operation
    /// fails with an error for which [`super::is_machine_gone`] is true, and no sync completes. A
    /// write at that step is done in part. The images of the disk as of then can still be taken.
    pub fn crash_at_step(&self, step: u64) {
        self.lock().crash_at = Some(step);
    }

    /// True once the disk has died.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Cuts the power and returns the disk that the next boot finds: one of the many possible ones.
    /// This disk is gone.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut state = self.lock();
        state.gone = true;
        let mut child = state.next_child();
        drop(state);
        self.abandon_syncs();
        let mut random = Random::stream(child.seed, "power cut");
        cut(&mut child.image, &mut random);
        Self::of(child)
    }

    /// Kills the process and returns the disk that the next one finds: everything written is there,
    /// durable or not, and locks are free. This disk is gone.
    #[must_use]
    pub fn kill(&self) -> Self {
        let killed = self.snapshot();
        self.lock().gone = true;
        self.abandon_syncs();
        killed
    }

    /// A disk with the same content, cached and durable, that goes its own way from here. No file of
    /// it is open, no lock is held, no sync is under way.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self::of(self.lock().next_child())
    }

    /// The disks that a power cut now could leave: all of them when they are at most `limit` (plus
    /// some with torn sectors, up to the limit), else `limit` samples, the first two of which are
    /// "nothing was kept" and "everything was kept". This disk stays as it is.
    #[must_use]
    pub fn crash_images(&self, limit: usize) -> CrashImages {
        let mut state = self.lock();
        let base = state.next_child();
        let questions = base.image.questions();
        let all = questions.iter().try_fold(1_usize, |all, (_, answers)| all.checked_mul(*answers));
        let sectors =
            questions.iter().filter(|(question, _)| matches!(question, Question::Sector(..))).count();
        let (enumerated, total) = match all.filter(|all| *all <= limit) {
            Some(all) => (all, limit.min(all + TORN_PER_SECTOR * sectors)),
            None => (0, limit),
        };
        CrashImages { base, questions, enumerated, total, next: 0 }
    }
}

impl State {
    fn next_child(&mut self) -> Self {
        self.children += 1;
        // The step counts too: who crashes a workload at each of its steps shall not draw the same
        // answers at all of them.
        let drawn = mix(self.steps ^ mix(self.children));
        self.child(mix(self.seed ^ drawn), self.image.clone())
    }
}

/// The possible images of a disk after a power cut; see [`SimulatedDisk::crash_images`].
pub struct CrashImages {
    base: State,
    questions: Vec<(Question, usize)>,
    /// The first so many are enumerated, the others drawn.
    enumerated: usize,
    total: usize,
    next: usize,
}

impl CrashImages {
    /// True when every image without a torn sector is among them.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.enumerated > 0
    }

    /// The image whose answers are the digits of `number`, each in the base of its question.
    fn answer_by_number(&self, image: &mut Image, mut number: usize) {
        let mut answers = self.questions.iter().map(|(_, answers)| {
            let answer = number % answers;
            number /= answers;
            Kept::Version(answer)
        });
        image.cut_power(|_| answers.next().unwrap_or(Kept::Version(0)));
    }
}

impl Iterator for CrashImages {
    type Item = SimulatedDisk;

    fn next(&mut self) -> Option<SimulatedDisk> {
        if self.next >= self.total {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let mut image = self.base.image.clone();
        let child_seed = mix(self.base.seed ^ mix(index as u64));
        if index < self.enumerated {
            self.answer_by_number(&mut image, index);
        } else if self.enumerated == 0 && index < 2 {
            let answers = image.questions();
            let mut newest = answers.iter().map(|(_, answers)| Kept::Version((answers - 1) * index));
            image.cut_power(|_| newest.next().unwrap_or(Kept::Version(0)));
        } else {
            cut(&mut image, &mut Random::stream(child_seed, "power cut"));
        }
        Some(SimulatedDisk::of(self.base.child(child_seed, image)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.total - self.next, Some(self.total - self.next))
    }
}

impl ExactSizeIterator for CrashImages {}

/// Cuts the power with answers from `random`. How much tends to be kept is drawn first, so that
/// "almost everything" and "almost nothing" come up among many sectors too.
fn cut(image: &mut Image, random: &mut Random) {
    let kept_of_8 = random.below(9);
    let (mut answers, sector_bytes) = (Vec::new(), image.sector_bytes);
    for (question, versions) in image.questions() {
        let keep = random.below(8) < kept_of_8;
        let newest = versions - 1;
        let torn = matches!(question, Question::Sector(..)) && random.one_in(4);
        answers.push(match (torn, keep) {
            (true, _) => Kept::Torn {
                first: random.index(versions),
                words: 1 + random.index(sector_bytes / WORD - 1),
                second: random.index(versions),
            },
            (false, false) => Kept::Version(0),
            (false, true) if random.one_in(4) => Kept::Version(1 + random.index(newest)),
            (false, true) => Kept::Version(newest),
        });
    }
    let mut answers = answers.into_iter();
    image.cut_power(|_| answers.next().unwrap_or(Kept::Version(0)));
}
