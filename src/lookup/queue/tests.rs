use super::*;

const LIMITS: Limits = Limits {
    max_in_flight: 2,
    max_at_store: 2,
    max_digests: 3,
    min_for_extra_batch: 1,
    max_waiters: 6,
    max_batch_age: Duration::from_millis(500),
};

fn digest(n: u8) -> TokenDigest {
    TokenDigest::from_bytes([n; 32])
}

fn single(n: u8, waiter: u32) -> RequestDigests<u32> {
    SmallVec::from_buf([(digest(n), waiter)])
}

/// Completes a batch without suspects.
fn completed(queue: &mut Queue<u32>) -> Option<Batch<u32>> {
    queue.batch_completed(&[], false, BatchOutcome::Completed, Instant::now())
}

fn waiting(admission: &Admission<u32>) -> bool {
    matches!(admission, Admission::Waiting)
}

fn waiters(batch: &Batch<u32>) -> Vec<(u8, Vec<u32>)> {
    let digests = batch.waiting.digests().iter().map(|d| d.as_bytes()[0]);
    let waiters = batch.waiting.waiters_of_each().iter();
    let waiters = waiters.map(|waiters| waiters.to_vec());
    let mut all: Vec<_> = digests.zip(waiters).collect();
    all.sort();
    all
}

/// E07: a lookup never joins a batch that was dispatched, even for the same digest.
#[test]
fn a_lookup_joins_only_unsent_batches() {
    let mut queue = Queue::new(LIMITS);
    let now = Instant::now();
    for waiter in [1, 2] {
        let Admission::Dispatch(sent) = queue.admit(single(9, waiter), now) else {
            panic!("the batch must be dispatched")
        };
        assert_eq!(waiters(&sent), [(9, vec![waiter])]);
    }
    assert!(waiting(&queue.admit(single(9, 3), now)));
    assert!(waiting(&queue.admit(single(9, 4), now)));
    assert!(waiting(&queue.admit(single(8, 5), now)));
    let next = completed(&mut queue).unwrap();
    assert_eq!(waiters(&next), [(8, vec![5]), (9, vec![3, 4])]);
    assert!(waiting(&queue.admit(single(9, 6), now)));
    assert_eq!(waiters(&completed(&mut queue).unwrap()), [(9, vec![6])]);
    assert!(completed(&mut queue).is_none());
    assert!(completed(&mut queue).is_none());
    assert!(queue.is_idle());
}

/// A second batch is dispatched beside the first once enough digests wait. A third batch is not
/// dispatched.
#[test]
fn a_second_batch_is_sent_once_enough_digests_wait() {
    let limits = Limits {
        min_for_extra_batch: 2,
        ..LIMITS
    };
    let mut queue = Queue::new(limits);
    let now = Instant::now();
    assert!(matches!(
        queue.admit(single(1, 1), now),
        Admission::Dispatch(_)
    ));
    assert!(waiting(&queue.admit(single(2, 2), now)));
    assert!(waiting(&queue.admit(single(2, 3), now)));
    let Admission::Dispatch(second) = queue.admit(single(3, 4), now) else {
        panic!("two digests must be dispatched")
    };
    assert_eq!(waiters(&second), [(2, vec![2, 3]), (3, vec![4])]);
    assert!(waiting(&queue.admit(single(4, 5), now)));
    assert!(waiting(&queue.admit(single(5, 6), now)));
    assert_eq!(
        waiters(&completed(&mut queue).unwrap()),
        [(4, vec![5]), (5, vec![6])]
    );
    assert!(completed(&mut queue).is_none());
    assert!(completed(&mut queue).is_none());
    assert!(queue.is_idle());
}

/// J05: the number of digests in a batch is bounded, and the number of waiters in the queue is
/// bounded. Many lookups of one token fill no batch.
#[test]
fn batches_are_bounded_in_digests_and_the_queue_in_waiters() {
    let mut queue = Queue::new(LIMITS);
    let now = Instant::now();
    for n in 0..2 {
        assert!(matches!(
            queue.admit(single(n, 0), now),
            Admission::Dispatch(_)
        ));
    }
    for n in 1..=4 {
        assert!(waiting(&queue.admit(single(n, u32::from(n)), now)));
    }
    assert!(waiting(&queue.admit(single(4, 5), now)));
    assert!(waiting(&queue.admit(single(4, 6), now)));
    assert!(matches!(
        queue.admit(single(4, 7), now),
        Admission::Overloaded
    ));
    assert_eq!(waiters(&completed(&mut queue).unwrap()).len(), 3);
    assert_eq!(
        waiters(&completed(&mut queue).unwrap()),
        [(4, vec![4, 5, 6])]
    );
    assert!(matches!(queue.admit(single(4, 8), now), Admission::Waiting));
}

/// O05: the digests of one request share a batch, and each of them counts toward the bounds.
#[test]
fn digests_of_one_request_share_a_batch_and_count_each() {
    let mut queue = Queue::new(LIMITS);
    let now = Instant::now();
    let together = |digests: &[u8], waiter| -> RequestDigests<u32> {
        digests.iter().map(|&n| (digest(n), waiter)).collect()
    };
    let Admission::Dispatch(sent) = queue.admit(together(&[1, 2], 1), now) else {
        panic!("the batch must be dispatched")
    };
    assert_eq!(waiters(&sent), [(1, vec![1]), (2, vec![1])]);
    assert!(matches!(
        queue.admit(single(1, 2), now),
        Admission::Dispatch(_)
    ));
    // Six waiters fit. A batch holds three digests, and the digests of one request share a
    // batch.
    assert!(waiting(&queue.admit(together(&[1, 2], 3), now)));
    assert!(waiting(&queue.admit(together(&[3, 4], 4), now)));
    assert!(matches!(
        queue.admit(together(&[3, 4, 5], 5), now),
        Admission::Overloaded
    ));
    assert!(waiting(&queue.admit(together(&[3, 5], 6), now)));
    assert!(matches!(
        queue.admit(single(3, 7), now),
        Admission::Overloaded
    ));
    let next = completed(&mut queue).unwrap();
    assert_eq!(waiters(&next), [(1, vec![3]), (2, vec![3])]);
    let next = completed(&mut queue).unwrap();
    assert_eq!(
        waiters(&next),
        [(3, vec![4, 6]), (4, vec![4]), (5, vec![6])]
    );
    assert!(completed(&mut queue).is_none());
}

/// E10: digests are equal only if all of their bytes are equal.
#[test]
fn digests_that_differ_in_one_byte_are_distinct() {
    let mut queue = Queue::new(LIMITS);
    let now = Instant::now();
    for n in 0..2 {
        assert!(matches!(
            queue.admit(single(n, 0), now),
            Admission::Dispatch(_)
        ));
    }
    for (place, waiter) in [(0, 1), (31, 2)] {
        let mut bytes = [9; 32];
        bytes[place] = 8;
        let digest = TokenDigest::from_bytes(bytes);
        let lookup = SmallVec::from_buf([(digest, waiter)]);
        assert!(waiting(&queue.admit(lookup, now)));
    }
    assert_eq!(completed(&mut queue).unwrap().waiting.len(), 2);
}

/// The last lookup of a batch has at least three quarters of the deadline.
#[test]
fn an_old_batch_admits_no_further_lookups() {
    let mut queue = Queue::new(LIMITS);
    let now = Instant::now();
    for n in 0..2 {
        assert!(matches!(
            queue.admit(single(n, 0), now),
            Admission::Dispatch(_)
        ));
    }
    assert!(waiting(&queue.admit(single(1, 1), now)));
    assert!(waiting(
        &queue.admit(single(1, 2), now + LIMITS.max_batch_age)
    ));
    assert_eq!(waiters(&completed(&mut queue).unwrap()), [(1, vec![1])]);
    assert_eq!(waiters(&completed(&mut queue).unwrap()), [(1, vec![2])]);
}

/// M06: after a timeout, the digests of the batch are looked up alone and one at a time. Other
/// lookups are not delayed.
#[test]
fn one_slow_row_slows_down_no_other_lookup() {
    let mut queue = Queue::new(LIMITS);
    let now = Instant::now();
    let timed_out = |queue: &mut Queue<u32>, digests: &[u8], alone| {
        let digests: Vec<_> = digests.iter().map(|n| digest(*n)).collect();
        queue.batch_completed(&digests, alone, BatchOutcome::TimedOut, now)
    };
    assert!(matches!(
        queue.admit(single(1, 1), now),
        Admission::Dispatch(_)
    ));
    assert!(matches!(
        queue.admit(single(2, 2), now),
        Admission::Dispatch(_)
    ));
    assert!(completed(&mut queue).is_none());
    assert!(timed_out(&mut queue, &[1], false).is_none());

    let Admission::Dispatch(suspect) = queue.admit(single(1, 3), now) else {
        panic!("the batch must be dispatched")
    };
    assert!(suspect.alone);
    assert!(matches!(
        queue.admit(single(2, 4), now),
        Admission::Dispatch(_)
    ));
    // The suspect never shares a batch with other digests.
    for (n, waiter) in [(3, 5), (1, 6), (4, 7), (1, 8)] {
        assert!(waiting(&queue.admit(single(n, waiter), now)));
    }
    let others = completed(&mut queue).unwrap();
    assert_eq!(waiters(&others), [(3, vec![5]), (4, vec![7])]);
    // The second batch of the suspect waits for the first one.
    assert!(completed(&mut queue).is_none());
    let again = timed_out(&mut queue, &[1], true).unwrap();
    assert_eq!(waiters(&again), [(1, vec![6, 8])]);
    // Two timeouts of the same digest are no sign of a slow database.
    assert!(matches!(
        queue.admit(single(5, 9), now),
        Admission::Dispatch(_)
    ));
    assert!(
        queue
            .batch_completed(&[digest(1)], true, BatchOutcome::Completed, now)
            .is_none()
    );
    assert!(queue.suspects.is_empty());
}

/// M06: after two timeouts in a row on different digests, only one query is in flight at a
/// time, until a query completes.
#[test]
fn a_slow_database_runs_one_query_at_a_time() {
    let mut queue = Queue::new(LIMITS);
    let now = Instant::now();
    for n in 1..=2 {
        assert!(matches!(
            queue.admit(single(n, 0), now),
            Admission::Dispatch(_)
        ));
    }
    for n in 3..=9 {
        queue.admit(single(n, u32::from(n)), now);
    }
    let first = queue.batch_completed(&[digest(1)], false, BatchOutcome::TimedOut, now);
    assert_eq!(first.unwrap().waiting.len(), 3);
    assert!(
        queue
            .batch_completed(&[digest(2)], false, BatchOutcome::TimedOut, now)
            .is_none()
    );
    assert_eq!(queue.in_flight, 1);
    assert!(waiting(&queue.admit(single(10, 10), now)));
    let second = queue.batch_completed(&[digest(3)], false, BatchOutcome::NotSent, now);
    assert_eq!(second.unwrap().waiting.len(), 3);
    let third = queue.batch_completed(&[digest(6)], false, BatchOutcome::Completed, now);
    assert_eq!(waiters(&third.unwrap()), [(10, vec![10])]);
    assert!(matches!(
        queue.admit(single(11, 11), now),
        Admission::Dispatch(_)
    ));
    assert_eq!(queue.in_flight, 2);
}

/// J05: the number of suspects is bounded.
#[test]
fn suspects_are_bounded() {
    let mut queue = Queue::<u32>::new(LIMITS);
    let now = Instant::now();
    for n in 0..40_u8 {
        assert!(matches!(
            queue.admit(single(n, 0), now),
            Admission::Dispatch(_)
        ));
        let many: Vec<_> = (0..100_u8)
            .map(|m| TokenDigest::from_bytes([[n, m]; 16].concat().try_into().unwrap()))
            .collect();
        assert!(
            queue
                .batch_completed(&many, false, BatchOutcome::TimedOut, now)
                .is_none()
        );
    }
    assert_eq!(queue.suspects.len(), MAX_SUSPECTS);
}

#[test]
fn abandoned_batches_are_returned_and_the_queue_remains_usable() {
    let mut queue = Queue::new(LIMITS);
    let now = Instant::now();
    for n in 0..4 {
        queue.admit(single(n, u32::from(n)), now);
    }
    let left: usize = queue
        .abandon(false)
        .iter()
        .map(|batch| batch.waiting.len())
        .sum();
    assert_eq!(left, 2);
    assert!(matches!(
        queue.admit(single(5, 5), now),
        Admission::Dispatch(_)
    ));
    assert!(completed(&mut queue).is_none());
    assert!(completed(&mut queue).is_none());
    assert!(queue.is_idle());
}

/// J05: abandoned waiters no longer count toward the bound.
#[test]
fn abandoned_waiters_free_their_capacity() {
    let mut queue = Queue::new(LIMITS);
    let now = Instant::now();
    assert!(matches!(
        queue.admit(single(0, 0), now),
        Admission::Dispatch(_)
    ));
    for _ in 0..3 {
        // One more batch is dispatched beside the first, and then the queue fills up.
        assert!(matches!(
            queue.admit(single(1, 0), now),
            Admission::Dispatch(_)
        ));
        for waiter in 0..6 {
            assert!(waiting(&queue.admit(single(2, waiter), now)));
        }
        assert!(matches!(
            queue.admit(single(2, 6), now),
            Admission::Overloaded
        ));
        let abandoned = queue.abandon(false);
        let abandoned: Vec<_> = abandoned.iter().flat_map(waiters).collect();
        assert_eq!(abandoned, [(2, vec![0, 1, 2, 3, 4, 5])]);
    }
}
