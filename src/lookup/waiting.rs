//! The waiters of one batch.

use smallvec::SmallVec;

use crate::session::TokenDigest;

/// The waiters for one digest; nearly always one.
pub(crate) type Waiters<W> = SmallVec<[W; 1]>;

/// The digests of one batch, each once, with the waiters for each.
///
/// It is a list. A batch is small, and most have one digest: comparing digests costs less than a
/// hash map, which would also be another allocation.
#[derive(Debug)]
pub(crate) struct Waiting<W>(SmallVec<[(TokenDigest, Waiters<W>); 1]>);

impl<W> Waiting<W> {
    pub(crate) fn with_capacity(digests: usize) -> Self {
        Self(SmallVec::with_capacity(digests))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, digest: &TokenDigest) -> bool {
        self.place(digest).is_some()
    }

    /// Returns the place of this digest.
    pub(crate) fn place(&self, digest: &TokenDigest) -> Option<usize> {
        self.0.iter().position(|(other, _)| other == digest)
    }

    pub(crate) fn digests(&self) -> impl Iterator<Item = TokenDigest> {
        self.0.iter().map(|(digest, _)| *digest)
    }

    /// Returns the number of waiters.
    pub(crate) fn waiters(&self) -> usize {
        self.0.iter().map(|(_, waiters)| waiters.len()).sum()
    }

    /// Returns the waiters for each digest, in the order of [`digests`](Self::digests).
    #[cfg(test)]
    pub(crate) fn waiters_of_each(&self) -> impl Iterator<Item = &Waiters<W>> {
        self.0.iter().map(|(_, waiters)| waiters)
    }

    pub(crate) fn add(&mut self, digest: TokenDigest, waiter: W) {
        match self.place(&digest) {
            Some(place) => self.0[place].1.push(waiter),
            None => self.0.push((digest, SmallVec::from_buf([waiter]))),
        }
    }

    /// Removes the digests whose waiters do not fulfill the condition.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Waiters<W>) -> bool) {
        self.0.retain(|(_, waiters)| keep(waiters));
    }

    /// Returns the waiters for each digest, in the order of [`digests`](Self::digests).
    pub(crate) fn into_waiters(self) -> impl Iterator<Item = Waiters<W>> {
        self.0.into_iter().map(|(_, waiters)| waiters)
    }

    /// Returns a batch for each digest.
    pub(crate) fn each_alone(self) -> impl Iterator<Item = (TokenDigest, Self)> {
        let alone = |(digest, waiters)| (digest, Self(SmallVec::from_buf([(digest, waiters)])));
        self.0.into_iter().map(alone)
    }
}
