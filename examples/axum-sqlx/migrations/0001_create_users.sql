-- The application's own table.
CREATE TABLE users (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- In lower case.
    email text NOT NULL UNIQUE,
    password_hash text NOT NULL
);
