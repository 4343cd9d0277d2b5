//! The waiters of one batch.

use std::mem::take;

use smallvec::SmallVec;

use crate::session::TokenDigest;

/// The digests of one query. There is often one.
pub(crate) type Digests = SmallVec<[TokenDigest; 1]>;
/// The waiters for one digest; nearly always one.
pub(crate) type Waiters<W> = SmallVec<[W; 1]>;
/// The waiters for each digest of a batch.
pub(crate) type WaitersOfEach<W> = SmallVec<[Waiters<W>; 1]>;

/// The digests of one batch, each once, with the waiters for each.
///
/// The digests are a list. A batch is small, and most have one digest: comparing the digests in a
/// list costs less than a hash map, which would also be another allocation.
#[derive(Debug)]
pub(crate) struct Waiting<W> {
    digests: Digests,
    waiters: WaitersOfEach<W>,
    /// The first bytes of all digests, as a set of 256 bits. Most digests that are not in the list
    /// are not in this set either, and the list need not be searched.
    first_bytes: [u64; 4],
}

impl<W> Waiting<W> {
    pub(crate) fn with_capacity(digests: usize) -> Self {
        Self {
            digests: SmallVec::with_capacity(digests),
            waiters: SmallVec::with_capacity(digests),
            first_bytes: [0; 4],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.digests.len()
    }

    pub(crate) fn contains(&self, digest: &TokenDigest) -> bool {
        self.place(digest).is_some()
    }

    /// Returns the number of waiters.
    pub(crate) fn waiters(&self) -> usize {
        self.waiters.iter().map(SmallVec::len).sum()
    }

    pub(crate) fn add(&mut self, digest: TokenDigest, waiter: W) {
        if let Some(place) = self.place(&digest) {
            self.waiters[place].push(waiter);
        } else {
            let (word, bit) = first_byte(&digest);
            self.first_bytes[word] |= bit;
            self.digests.push(digest);
            self.waiters.push(SmallVec::from_buf([waiter]));
        }
    }

    fn place(&self, digest: &TokenDigest) -> Option<usize> {
        let (word, bit) = first_byte(digest);
        if self.first_bytes[word] & bit == 0 {
            return None;
        }
        place(&self.digests, digest)
    }

    /// Removes the digests whose waiters do not fulfill the condition.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Waiters<W>) -> bool) {
        if self.waiters.iter().all(&keep) {
            return;
        }
        let (digests, waiters) = (take(&mut self.digests), take(&mut self.waiters));
        let of_each = digests.into_iter().zip(waiters);
        (self.digests, self.waiters) = of_each.filter(|(_, waiters)| keep(waiters)).unzip();
    }

    /// Returns the digests.
    #[cfg(test)]
    pub(crate) fn digests(&self) -> &[TokenDigest] {
        &self.digests
    }

    /// Returns the waiters for each digest, in the order of [`digests`](Self::digests).
    #[cfg(test)]
    pub(crate) fn waiters_of_each(&self) -> &[Waiters<W>] {
        &self.waiters
    }

    /// Returns the digests, and the waiters for each in the same order.
    pub(crate) fn into_parts(self) -> (Digests, WaitersOfEach<W>) {
        (self.digests, self.waiters)
    }
}

/// Returns the place of a digest's first byte in a set of 256 bits.
fn first_byte(digest: &TokenDigest) -> (usize, u64) {
    let [first, ..] = digest.as_bytes();
    (usize::from(first / 64), 1 << (first % 64))
}

/// Returns the place of a digest in a list.
pub(crate) fn place(digests: &[TokenDigest], digest: &TokenDigest) -> Option<usize> {
    let first_bytes = digest.first_bytes();
    digests
        .iter()
        .position(|other| other.first_bytes() == first_bytes && other == digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E10: also digests that differ in their last byte only are different.
    #[test]
    fn each_digest_is_listed_once() {
        let digest = |first, last| {
            let mut bytes = [first; 32];
            bytes[31] = last;
            TokenDigest::from_bytes(bytes)
        };
        let with_first = |first| [digest(first, 1), digest(first, 2)];
        let digests: Vec<_> = (0..=u8::MAX).flat_map(with_first).collect();
        let mut waiting = Waiting::with_capacity(1);
        for waiter in [1, 2] {
            for digest in &digests {
                assert_eq!(waiting.contains(digest), waiter == 2);
                waiting.add(*digest, waiter);
            }
        }
        assert_eq!(waiting.digests(), digests);
        let mut waiters = waiting.waiters_of_each().iter();
        assert!(waiters.all(|waiters| waiters[..] == [1, 2]));
    }
}
