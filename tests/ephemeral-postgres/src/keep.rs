use std::path::PathBuf;

use crate::source;

/// Where private servers leave their logs and data, if anywhere: `EPHEMERAL_POSTGRES_KEEP`.
pub(crate) fn folder() -> Option<PathBuf> {
    source::read("EPHEMERAL_POSTGRES_KEEP").map(PathBuf::from)
}
