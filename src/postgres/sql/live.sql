-- The condition for a live session s, apart from its user: neither limit has been reached, by the
-- clock of this server. Every statement about live sessions includes it, except find.sql: its
-- caller applies the limits.
(:ends_at) OPERATOR(pg_catalog.>) pg_catalog.now()
AND :not_idle
