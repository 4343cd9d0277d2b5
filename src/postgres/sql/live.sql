-- The condition for a live session s: neither the absolute limit nor the idle limit has been
-- reached, by the clock of this server. The condition does not check the user. Every statement
-- about live sessions includes it, except find.sql, whose caller applies the limits.
(:ends_at) OPERATOR(pg_catalog.>) pg_catalog.now()
AND :not_idle
