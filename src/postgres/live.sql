-- What makes a session live, but for its user: both limits, by this server's clock, strictly. It stands in
-- every statement that asks for live sessions, where they are called s.
(:ends_at) OPERATOR(pg_catalog.>) pg_catalog.now()
AND :not_idle
