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
}

impl<W> Waiting<W> {
    pub(crate) fn with_capacity(digests: usize) -> Self {
        Self {
            digests: SmallVec::with_capacity(digests),
            waiters: SmallVec::with_capacity(digests),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.digests.len()
    }

    pub(crate) fn contains(&self, digest: &TokenDigest) -> bool {
        place(&self.digests, digest).is_some()
    }

    /// Returns the number of waiters.
    pub(crate) fn waiters(&self) -> usize {
        self.waiters.iter().map(SmallVec::len).sum()
    }

    pub(crate) fn add(&mut self, digest: TokenDigest, waiter: W) {
        if let Some(place) = place(&self.digests, &digest) {
            self.waiters[place].push(waiter);
        } else {
            self.digests.push(digest);
            self.waiters.push(SmallVec::from_buf([waiter]));
        }
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

/// Returns the place of a digest in a list.
pub(crate) fn place(digests: &[TokenDigest], digest: &TokenDigest) -> Option<usize> {
    let first_bytes = digest.first_bytes();
    digests
        .iter()
        .position(|other| other.first_bytes() == first_bytes && other == digest)
}
