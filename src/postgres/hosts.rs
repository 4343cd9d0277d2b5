//! The number of hosts of a pool, and a warning if it may connect to a replica.

use deadpool_postgres::Pool;

/// Logs a warning if the pool has several hosts and accepts the first host that responds, even if
/// that host is a replica.
pub(super) fn warn(pool: &Pool) {
    // The pool's manager exposes its configuration only through `Debug`, which omits the password.
    if takes_any_of_several(&format!("{:?}", pool.manager())) {
        tracing::warn!(
            target: "tower_user_session",
            event = "several_hosts",
            "the pool has several hosts without target_session_attrs=read-write: sign-ins and \
             lookups fail on a connection to a replica"
        );
    }
}

/// Returns the number of hosts of the pool.
pub(super) fn count(pool: &Pool) -> usize {
    count_in(&format!("{:?}", pool.manager()))
}

fn count_in(manager: &str) -> usize {
    let list = |name: &str| {
        let (_, rest) = manager.split_once(name).unwrap_or_default();
        let (items, _) = rest.split_once(']').unwrap_or_default();
        items.matches(',').count() + 1
    };
    list(" host: [").max(list(" hostaddr: ["))
}

fn takes_any_of_several(manager: &str) -> bool {
    count_in(manager) > 1 && manager.contains("target_session_attrs: Any")
}

#[cfg(test)]
mod tests {
    use deadpool_postgres::Manager;
    use tokio_postgres::NoTls;

    use super::*;

    /// M17: several hosts without `target_session_attrs` are detected.
    #[test]
    fn several_hosts_need_target_session_attrs() {
        for (config, found) in [
            ("host=a", false),
            ("host=a user=u password='b, c'", false),
            ("hostaddr=127.0.0.1", false),
            ("host=a,b", true),
            ("host=/run/a,/run/b", true),
            ("hostaddr=127.0.0.1,127.0.0.2", true),
            ("host=a,b target_session_attrs=any", true),
            ("host=a,b target_session_attrs=read-write", false),
            ("host=a,b target_session_attrs=read-only", false),
        ] {
            let manager = Manager::new(config.parse().unwrap(), NoTls);
            assert_eq!(
                takes_any_of_several(&format!("{manager:?}")),
                found,
                "{config}"
            );
        }
    }
}
