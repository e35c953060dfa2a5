//! Something that a task waits for beside others, and that is looked at only
//! when it was this that woke the task.
//!
//! Invariants: no wake is lost, whatever comes between a look and the next one;
//! the latest task that looked is the one that is woken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// See the module. By default it does not hang yet: every look is made, and
/// wakes the task itself, which is cheaper for who looks a few times only.
#[derive(Debug, Default)]
pub struct Bell {
    hung: Option<Hung>,
}

#[derive(Debug)]
struct Hung {
    ringer: Arc<Ringer>,
    /// Of `ringer`, for what is waited for.
    waker: Waker,
    /// Whom `ringer` wakes.
    task: Option<Waker>,
    /// What is waited for knows our waker.
    is_waiting: bool,
}

#[derive(Debug, Default)]
struct Ringer {
    has_rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Ringer {
    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        let task = self.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Bell {
    /// One that hangs.
    pub fn hung() -> Self {
        let mut bell = Self::default();
        bell.hang();
        bell
    }

    pub(crate) fn hang(&mut self) {
        self.hung.get_or_insert_with(|| {
            let ringer = Arc::new(Ringer::default());
            Hung {
                waker: Waker::from(Arc::clone(&ringer)),
                ringer,
                task: None,
                is_waiting: false,
            }
        });
    }

    /// Another task looks from now on, and may not do so for long.
    pub(crate) fn take_down(&mut self) {
        if let Some(hung) = self.hung.take() {
            *hung.ringer.lock() = None;
        }
    }

    /// Looks with `look`, unless the last look found nothing and nothing has
    /// happened since. Whoever else looks at the same thing with another waker
    /// takes its wakes away from this one.
    pub fn poll<R>(&mut self, cx: &mut Context<'_>, look: impl FnOnce(&mut Context<'_>) -> Poll<R>) -> Poll<R> {
        match self.is_silent(cx) {
            true => Poll::Pending,
            false => self.look(cx, look),
        }
    }

    /// The second half of [`poll`](Self::poll), for who has to prepare a look
    /// once it is not [silent](Self::is_silent).
    pub(crate) fn look<R>(&mut self, cx: &mut Context<'_>, look: impl FnOnce(&mut Context<'_>) -> Poll<R>) -> Poll<R> {
        let Some(hung) = &mut self.hung else {
            return look(cx);
        };
        let found = look(&mut Context::from_waker(&hung.waker));
        hung.is_waiting = found.is_pending();
        found
    }

    /// The latest look has found something, and that it is all there is: what was
    /// looked at knows our waker.
    pub(crate) fn wait(&mut self) {
        if let Some(hung) = &mut self.hung {
            hung.is_waiting = true;
        }
    }

    /// Whether a look would be in vain.
    pub(crate) fn is_silent(&mut self, cx: &Context<'_>) -> bool {
        let Some(hung) = &mut self.hung else {
            return false;
        };
        if !hung.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            hung.task = Some(cx.waker().clone());
            hung.ringer.lock().clone_from(&hung.task);
        }
        // After the task is known, and before anything is looked at, so that
        // what comes meanwhile counts.
        let has_rung = &hung.ringer.has_rung;
        if has_rung.load(Ordering::Acquire) && has_rung.swap(false, Ordering::AcqRel) {
            hung.is_waiting = false;
        }
        hung.is_waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a task would be woken by, and how often it was.
    #[derive(Default)]
    struct Task(std::sync::atomic::AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks, finds nothing, and leaves its waker there.
    fn look(bell: &mut Bell, task: &Arc<Task>, left: &mut Option<Waker>) -> bool {
        let mut has_looked = false;
        let waker = Waker::from(Arc::clone(task));
        let found: Poll<()> = bell.poll(&mut Context::from_waker(&waker), |cx| {
            has_looked = true;
            *left = Some(cx.waker().clone());
            Poll::Pending
        });
        assert!(found.is_pending());
        has_looked
    }

    #[test]
    fn it_looks_again_once_it_has_rung_and_not_before() {
        let (task, mut left) = (Arc::new(Task::default()), None);
        let mut bell = Bell::hung();
        assert!(look(&mut bell, &task, &mut left));
        assert!(!look(&mut bell, &task, &mut left));
        left.take().unwrap_or_else(|| Waker::noop().clone()).wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(look(&mut bell, &task, &mut left));
        assert!(!look(&mut bell, &task, &mut left));
    }

    #[test]
    fn it_looks_again_after_it_has_found_something() {
        let (task, mut left) = (Arc::new(Task::default()), None);
        let mut bell = Bell::hung();
        let mut found_at_once = || bell.poll(&mut Context::from_waker(Waker::noop()), |_| Poll::Ready(7));
        assert_eq!([found_at_once(), found_at_once()], [Poll::Ready(7); 2]);
        assert!(look(&mut bell, &task, &mut left));
    }

    #[test]
    fn who_has_found_all_there_is_waits_without_another_look() {
        let (task, mut left) = (Arc::new(Task::default()), None);
        let waker = Waker::from(Arc::clone(&task));
        let mut bell = Bell::hung();
        let found = bell.poll(&mut Context::from_waker(&waker), |cx| {
            left = Some(cx.waker().clone());
            Poll::Ready(7)
        });
        bell.wait();
        assert_eq!(found, Poll::Ready(7));
        let mut unasked = None;
        assert!(!look(&mut bell, &task, &mut unasked));
        left.take().unwrap_or_else(|| Waker::noop().clone()).wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(look(&mut bell, &task, &mut unasked));
    }

    #[test]
    fn it_wakes_the_task_that_looked_last_though_that_did_not_have_to_look() {
        let (first, second, mut left) = (Arc::new(Task::default()), Arc::new(Task::default()), None);
        let mut bell = Bell::hung();
        assert!(look(&mut bell, &first, &mut left));
        assert!(!look(&mut bell, &second, &mut left));
        left.take().unwrap_or_else(|| Waker::noop().clone()).wake();
        let woken = [&first, &second].map(|task| task.0.load(Ordering::Relaxed));
        assert_eq!(woken, [0, 1]);
    }

    #[test]
    fn one_that_does_not_hang_looks_each_time_and_wakes_the_task_itself() {
        let (task, mut left) = (Arc::new(Task::default()), None);
        let mut bell = Bell::default();
        assert!(look(&mut bell, &task, &mut left) && look(&mut bell, &task, &mut left));
        let own = Waker::from(Arc::clone(&task));
        assert!(left.as_ref().is_some_and(|left| left.will_wake(&own)));
        bell.hang();
        assert!(look(&mut bell, &task, &mut left) && !look(&mut bell, &task, &mut left));
        bell.take_down();
        assert!(look(&mut bell, &task, &mut left) && look(&mut bell, &task, &mut left));
        bell.hang();
        assert!(look(&mut bell, &task, &mut left) && !look(&mut bell, &task, &mut left));
    }
}
