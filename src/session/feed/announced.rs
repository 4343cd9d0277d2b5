//! What may be kept of a lookup that was under way while something was announced. No clock, no lock and
//! no runtime, so that it can be checked by itself.

use std::collections::VecDeque;

use crate::SessionId;

/// So many announcements are remembered one by one. A lookup that was overtaken by more is not kept.
const REMEMBERED: usize = 1_024;

/// The announcements so far, in their order.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    /// How many there were.
    count: u64,
    /// A lookup that was asked when there were fewer is not kept, whatever it is of.
    complete_from: u64,
    recent: VecDeque<(u64, SessionId)>,
}

/// The moment at which a lookup was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(u64);

impl Announced {
    /// To be called before the question is sent.
    pub(crate) const fn ask(&self) -> Asked {
        Asked(self.count)
    }

    /// Whether nothing has been announced about this session since it was asked about.
    pub(crate) fn may_keep(&self, asked: Asked, session: SessionId) -> bool {
        let since = self.recent.iter().rev();
        asked.0 >= self.complete_from
            && since
                .take_while(|(count, _)| *count > asked.0)
                .all(|(_, id)| *id != session)
    }

    pub(crate) fn announce(&mut self, session: SessionId) {
        self.count += 1;
        if self.recent.len() == REMEMBERED
            && let Some((forgotten, _)) = self.recent.pop_front()
        {
            self.complete_from = forgotten;
        }
        self.recent.push_back((self.count, session));
    }

    /// Anything may have changed: no lookup under way is kept.
    pub(crate) fn announce_everything(&mut self) {
        self.count += 1;
        self.complete_from = self.count;
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> SessionId {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        SessionId::from_bytes(bytes)
    }

    #[test]
    fn a_lookup_is_kept_unless_its_session_was_announced_meanwhile() {
        let mut announced = Announced::default();
        announced.announce(id(1));
        let asked = announced.ask();
        assert!(announced.may_keep(asked, id(1)));
        announced.announce(id(2));
        assert!(announced.may_keep(asked, id(1)));
        assert!(!announced.may_keep(asked, id(2)));
        assert!(announced.may_keep(announced.ask(), id(2)));
        announced.announce_everything();
        assert!(!announced.may_keep(asked, id(1)));
        assert!(announced.may_keep(announced.ask(), id(1)));
    }

    /// However much is announced, what is remembered is bounded, and what is forgotten counts as
    /// announced.
    #[test]
    fn what_is_forgotten_counts_as_announced() {
        let mut announced = Announced::default();
        let before = announced.ask();
        for _ in 0..REMEMBERED {
            announced.announce(id(1));
        }
        assert!(announced.may_keep(before, id(2)));
        announced.announce(id(1));
        assert!(!announced.may_keep(before, id(2)));
        assert_eq!(announced.recent.len(), REMEMBERED);
    }
}
