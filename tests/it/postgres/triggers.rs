//! What `migrations/0002_announce_sessions.sql` announces, and what it does not.

use std::{collections::BTreeSet, process::Command, time::SystemTime};

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::{TestDatabase, skip};
use tower_user_session::{
    PgSessionStore, SessionService, SignedIn,
    session::{SessionId, SessionLimit},
    store::{SessionLookup, SessionUse},
    tokio_postgres::NoTls,
};

use crate::support::{
    PgSessions, USERS, User, cookie, current,
    notifications::{Feed, announced_sessions, announced_users, id, name},
    number, patiently, pool, psql,
    secrets::Secrets,
    sql,
};

/// Inserts this many live sessions of user 1 and returns their ids.
async fn fill(database: &TestDatabase, count: i32) -> Vec<SessionId> {
    let insert = "INSERT INTO sessions (token_digest, user_id, expires_at)
        SELECT sha256(n::text::bytea), 1, now() + interval '1 day' FROM generate_series(1, $1) AS n
        RETURNING id";
    let rows = database.client().await.query(insert, &[&count]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

/// D07, D13: each way in which a session ends sends one notification with its id, also if it is a
/// side effect.
#[tokio::test]
async fn every_end_of_a_session_is_announced() {
    let (database, sessions, mut feed) = announced_sessions().await;
    let mut adas = Vec::new();
    for _ in 0..5 {
        adas.push(sessions.sign_in_without_request(1).await.unwrap());
    }
    let adas = <[SignedIn; 5]>::try_from(adas).unwrap();
    let [first, second, third, fourth, fifth] = adas;
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    feed.expect_none("new sessions").await;

    let signed_out = sessions.sign_out(&cookie(&sessions, first.token())).await;
    assert!(signed_out.ended().unwrap());
    feed.one("ended", &[id(&first)]).await;
    let _ = sessions.sign_out(&cookie(&sessions, first.token())).await;
    feed.expect_none("nothing ended").await;

    sessions.revoke(&1, id(&second)).await.unwrap();
    feed.one("ended", &[id(&second)]).await;
    sessions.revoke_others(&1, &current(&third)).await.unwrap();
    feed.one("ended", &[id(&fourth), id(&fifth)]).await;
    sessions.revoke_all(&1).await.unwrap();
    feed.one("ended", &[id(&third)]).await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    sessions.revoke_everyone().await.unwrap();
    feed.one("ended", &[id(&ada), id(&eve)]).await;

    // A sign-in that replaces a session, and one that evicts the oldest.
    let old = sessions.sign_in_without_request(2).await.unwrap();
    let headers = cookie(&sessions, old.token());
    let new = sessions.sign_in(1, &headers).await.unwrap();
    feed.one("ended", &[id(&old)]).await;
    let limit = SessionLimit::end_oldest(1).unwrap();
    let store = PgSessionStore::<User>::new(pool(&database, 2)).with_session_limit(limit);
    let newest = SessionService::new(store)
        .sign_in_without_request(1)
        .await
        .unwrap();
    feed.one("ended", &[id(&new)]).await;

    // With the user, in a trigger of the foreign key: one user, and several in one statement.
    let eves = sessions.sign_in_without_request(2).await.unwrap();
    sql(&database, "DELETE FROM users WHERE id = 1").await;
    feed.one("ended", &[id(&newest)]).await;
    sql(&database, "INSERT INTO users (id, email) VALUES (1, 'ada')").await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    sql(&database, "DELETE FROM users").await;
    feed.one("ended", &[id(&eves), id(&ada)]).await;
}

/// D05: a session that changes without ending is announced as changed, and only then.
#[tokio::test]
async fn every_change_of_a_session_is_announced() {
    let (database, sessions, mut feed) = announced_sessions().await;
    // Names that the triggers use too.
    let columns =
        "ALTER TABLE sessions ADD COLUMN most int, ADD COLUMN channel int, ADD COLUMN n int,
            ADD COLUMN o int, ADD COLUMN settings json";
    sql(&database, columns).await;
    let old = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(1).await.unwrap();
    let confirmed = sessions
        .reauthenticate(1, &cookie(&sessions, old.token()))
        .await;
    let confirmed = confirmed.unwrap();
    assert_eq!(id(&confirmed), id(&old));
    feed.one("changed", &[id(&old)]).await;
    for change in [
        "token_digest = sha256(token_digest)",
        "expires_at = expires_at - interval '1 microsecond'",
        "expires_at = expires_at + interval '1 microsecond'",
        "user_id = 2",
        "created_at = created_at - interval '1 hour'",
        "authenticated_at = authenticated_at - interval '1 hour'",
        "last_seen_at = last_seen_at - interval '1 microsecond'",
        "user_agent = 'another'",
        "ip = '::1'",
        "remembered = true",
        "channel = 1, last_seen_at = last_seen_at + interval '1 hour'",
        "settings = '{}'",
    ] {
        sql(&database, &format!("UPDATE sessions SET {change}")).await;
        feed.one("changed", &[id(&old), id(&other)]).await;
    }

    // If the id itself changes, the old id and the new one.
    let new = SessionId::from_bytes([7; 16]);
    let rename = format!("UPDATE sessions SET id = '{new}' WHERE id = '{}'", id(&old));
    sql(&database, &rename).await;
    feed.one("changed", &[id(&old), new]).await;

    for nothing in [
        "last_seen_at = last_seen_at + interval '1 hour'",
        "user_id = user_id",
        "settings = '{}', last_seen_at = last_seen_at + interval '1 hour'",
    ] {
        sql(&database, &format!("UPDATE sessions SET {nothing}")).await;
        feed.expect_none(nothing).await;
    }
    let no_user = "UPDATE sessions SET expires_at = now() WHERE user_id = 99";
    sql(&database, no_user).await;
    feed.expect_none(no_user).await;
}

/// A last-seen update sends no notification: it is the most frequent write, and it changes no
/// lookup's result.
#[tokio::test]
async fn last_seen_updates_are_not_announced() {
    let (database, sessions, mut feed) = announced_sessions().await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let idle = "UPDATE sessions SET last_seen_at = now() - interval '1 hour'";
    sql(&database, idle).await;
    feed.one("changed", &[id(&ada)]).await;
    let used = [SessionUse::new(id(&ada), SystemTime::now())];
    sessions.store().touch(&used).await.unwrap();
    let touched =
        "SELECT count(*) FROM sessions WHERE last_seen_at > now() - interval '30 minutes'";
    assert_eq!(number(&database, touched).await, 1);
    feed.expect_none("a touch").await;
}

/// D17: clean-up of sessions beyond their absolute limit sends no notification. The end of a live
/// session would.
#[tokio::test]
async fn clean_up_sends_few_notifications() {
    let (database, sessions, mut feed) = announced_sessions().await;
    fill(&database, 300).await;
    let expire = "UPDATE sessions SET expires_at = now() - interval '1 day'";
    sql(&database, expire).await;
    assert_eq!(feed.received().await, ["everything"]);
    let live = sessions.sign_in_without_request(2).await.unwrap();
    assert_eq!(sessions.delete_expired().await.unwrap(), 300);
    feed.expect_none("cleaning up").await;
    fill(&database, 1).await;
    sql(&database, expire).await;
    feed.received().await;
    sql(&database, "DELETE FROM sessions").await;
    feed.expect_none("sessions that are over").await;
    let last = sessions.sign_in_without_request(2).await.unwrap();
    sql(&database, "DELETE FROM sessions").await;
    feed.one("ended", &[id(&last)]).await;
    assert_eq!(sessions.user(live.token()).await.unwrap(), None);
}

/// N08: a clean-up statement deletes at most as many idle sessions as one notification can name,
/// and each of them is named. Live sessions are unchanged.
#[tokio::test]
async fn cleaning_up_idle_sessions_names_each_of_them() {
    for count in [242, 243, 1_000] {
        let (database, sessions, mut feed) = announced_sessions().await;
        let ids = fill(&database, count).await;
        let idle = "UPDATE sessions SET last_seen_at = now() - interval '1 year'";
        sql(&database, idle).await;
        let expired = "UPDATE sessions SET expires_at = now() - interval '1 day' WHERE id = $1";
        let client = database.client().await;
        client.execute(expired, &[&ids[0]]).await.unwrap();
        let live = sessions.sign_in_without_request(2).await.unwrap();
        feed.received().await;

        assert_eq!(
            sessions.delete_expired().await.unwrap(),
            u64::try_from(count).unwrap()
        );
        let received = feed.received().await;
        let named = received
            .iter()
            .map(|payload| payload.strip_prefix("ended ").unwrap());
        let named: BTreeSet<_> = named
            .flat_map(|ids| ids.split(' ').map(str::to_owned))
            .collect();
        assert_eq!(named, ids[1..].iter().map(name).collect());
        assert!(sessions.user(live.token()).await.unwrap().is_some());
    }
}

/// Clean-up terminates even if the application prevents idle sessions from being deleted.
#[tokio::test]
async fn cleaning_up_ends_if_the_database_keeps_the_rows() {
    let (database, sessions, _feed) = announced_sessions().await;
    fill(&database, 300).await;
    let idle = "UPDATE sessions SET last_seen_at = now() - interval '1 year'";
    sql(&database, idle).await;
    let keep =
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER keep BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION keep()";
    database.client().await.batch_execute(keep).await.unwrap();
    assert_eq!(patiently(sessions.delete_expired()).await.unwrap(), 0);
}

/// One statement sends one notification, for any number of rows: at the size limit of a payload,
/// and beyond it.
#[tokio::test]
async fn a_statement_announces_once() {
    let (database, _, mut feed) = announced_users().await;
    for count in [200, 242] {
        let ids = fill(&database, count).await;
        let change = "UPDATE sessions SET expires_at = expires_at + interval '1 hour'";
        sql(&database, change).await;
        feed.one("changed", &ids).await;
        sql(&database, "DELETE FROM sessions").await;
        feed.one("ended", &ids).await;
    }
    for count in [243, 10_000] {
        fill(&database, count).await;
        for change in [
            "UPDATE sessions SET expires_at = expires_at + interval '1 hour'",
            "DELETE FROM sessions",
        ] {
            sql(&database, change).await;
            assert_eq!(feed.received().await, ["everything"], "{change}");
        }
    }
    for truncate in ["TRUNCATE sessions", "TRUNCATE users CASCADE"] {
        sql(&database, truncate).await;
        assert_eq!(feed.received().await, ["everything"], "{truncate}");
    }
}

/// A password change together with the revocation of the other sessions: no notification before the
/// commit, and none without it.
#[tokio::test]
async fn nothing_is_announced_before_the_commit() {
    let (database, sessions, mut feed) = announced_sessions().await;
    let this = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(1).await.unwrap();
    for commit in [false, true] {
        let mut client = pool(&database, 1).get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let change = "UPDATE users SET role = 'new' WHERE id = 1";
        transaction.execute(change, &[]).await.unwrap();
        sessions
            .revoke_others_in_transaction(&transaction, &1, &current(&this))
            .await
            .unwrap();
        feed.expect_none("before the commit").await;
        if commit {
            transaction.commit().await.unwrap();
            feed.one("ended", &[id(&other)]).await;
        } else {
            transaction.rollback().await.unwrap();
            feed.expect_none("rolled back").await;
        }
    }
}

/// By hand, as another program would do it, and where ordinary triggers do not fire.
#[tokio::test]
async fn every_way_to_end_a_session_announces_it() {
    let (database, sessions, mut feed) = announced_users().await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    let client = database.client().await;
    let replica = "SET session_replication_role = replica";
    client.batch_execute(replica).await.unwrap();
    let update = "UPDATE users SET role = 'x' WHERE id = 1";
    client.execute(update, &[]).await.unwrap();
    feed.users(&["1"]).await;
    let update = "UPDATE sessions SET user_id = 2 WHERE user_id = 1";
    client.execute(update, &[]).await.unwrap();
    feed.one("changed", &[id(&ada)]).await;
    let delete = "DELETE FROM sessions WHERE user_id = 2";
    client.execute(delete, &[]).await.unwrap();
    feed.one("ended", &[id(&ada), id(&eve)]).await;
    client.execute("TRUNCATE sessions", &[]).await.unwrap();
    assert_eq!(feed.received().await, ["everything"]);

    let Some(psql) = psql().await else {
        let name = "postgres::triggers::every_way_to_end_a_session_announces_it";
        return skip(name, "there is no psql here");
    };
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let url = database.url();
    let delete = ["-X", "-d", &url, "-c", "DELETE FROM sessions"];
    let output = Command::new(psql).args(delete).output().unwrap();
    assert!(output.status.success());
    feed.one("ended", &[id(&ada)]).await;
}

/// I01: only ids, and neither token nor digest in any spelling.
#[tokio::test]
async fn notifications_contain_no_secret() {
    let (database, sessions, mut feed) = announced_users().await;
    let old = sessions.sign_in_without_request(1).await.unwrap();
    let new = sessions
        .reauthenticate(1, &cookie(&sessions, old.token()))
        .await;
    let new = new.unwrap();
    sql(&database, "UPDATE users SET role = 'x'").await;
    let _ = sessions.sign_out(&cookie(&sessions, new.token())).await;
    let received = feed.received().await;
    let name = name(&id(&new));
    assert_eq!(received.len(), 3);
    assert_eq!(received[0], format!("changed {name}"));
    assert_eq!(received[2], format!("ended {name}"));
    for token in [old.token(), new.token()] {
        Secrets::of(token).assert_not_in("an announcement", &received.join("\n"));
    }
}

/// C17, M13: the documented privileges suffice to sign out. A role that may only update users needs
/// no other privilege to announce them.
#[tokio::test]
async fn triggers_need_no_further_privileges() {
    let database = TestDatabase::create(&format!("{USERS}; CREATE SCHEMA app")).await;
    let store = PgSessionStore::<User>::new(pool(&database, 2)).with_schema("app");
    store.migrate().notify_on_user_change().await.unwrap();
    let mut feed = Feed::of(&database, "app.sessions").await;
    let role = format!("writer_{}", database.name());
    let as_role = async || {
        let mut config = database.config();
        config.user(&role);
        let manager = Manager::new(config, NoTls);
        Pool::builder(manager).max_size(2).build().unwrap()
    };
    for statement in [
        &*format!("CREATE ROLE {role} LOGIN"),
        &format!("GRANT USAGE ON SCHEMA app TO {role}"),
        &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON app.sessions TO {role}"),
        &format!("GRANT SELECT ON users TO {role}"),
    ] {
        sql(&database, statement).await;
    }
    let limited: PgSessions =
        SessionService::new(PgSessionStore::new(as_role().await).with_schema("app"));
    let ada = limited.sign_in_without_request(1).await.unwrap();
    let signed_out = limited.sign_out(&cookie(&limited, ada.token())).await;
    assert!(signed_out.ended().unwrap());
    feed.one("ended", &[id(&ada)]).await;

    for statement in [
        &*format!("REVOKE ALL ON app.sessions FROM {role}"),
        &format!("REVOKE ALL ON SCHEMA app FROM {role}"),
        &format!("GRANT UPDATE ON users TO {role}"),
    ] {
        sql(&database, statement).await;
    }
    let client = as_role().await.get().await.unwrap();
    let definer =
        "SELECT count(*) FROM pg_proc WHERE proname LIKE 'tower_user_session%' AND prosecdef";
    assert_eq!(number(&database, definer).await, 0);
    let mut update = "UPDATE users SET role = role || '!' WHERE id = 1";
    client.execute(update, &[]).await.unwrap();
    feed.users(&["1"]).await;
    update = "UPDATE users SET role = role WHERE id = 99";
    client.execute(update, &[]).await.unwrap();
    feed.expect_none("no user").await;
    drop(client);
    drop(limited);
    sql(&database, &format!("DROP OWNED BY {role}")).await;
}

/// Names that precede PostgreSQL's own: no notification is suppressed, and no foreign code runs.
#[tokio::test]
async fn a_hostile_search_path_suppresses_no_notification() {
    let (database, _, mut feed) = announced_users().await;
    let ids = fill(&database, 2).await;
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE SCHEMA evil;
             CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
             CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'infinity'::timestamptz $$;
             CREATE FUNCTION evil.no(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
             CREATE FUNCTION evil.no(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
             CREATE FUNCTION evil.no(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
             CREATE FUNCTION evil.no(record, record) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN false; END';
             CREATE OPERATOR evil.= (FUNCTION = evil.no, LEFTARG = text, RIGHTARG = text);
             CREATE OPERATOR evil.= (FUNCTION = evil.no, LEFTARG = bigint, RIGHTARG = bigint);
             CREATE OPERATOR evil.> (FUNCTION = evil.no, LEFTARG = bigint, RIGHTARG = bigint);
             CREATE OPERATOR evil.> (FUNCTION = evil.no, LEFTARG = timestamptz, RIGHTARG = timestamptz);
             CREATE OPERATOR evil.*<> (FUNCTION = evil.no, LEFTARG = record, RIGHTARG = record);
             CREATE TABLE evil.old_rows AS SELECT * FROM sessions LIMIT 0;
             CREATE TEMP TABLE pg_type (LIKE pg_catalog.pg_type);
             CREATE TEMP TABLE new_rows AS SELECT * FROM sessions LIMIT 0;
             SET search_path = evil, pg_catalog, public",
        )
        .await
        .unwrap();
    let change =
        "UPDATE sessions SET expires_at = expires_at OPERATOR(pg_catalog.+) '1 hour'::interval";
    client.batch_execute(change).await.unwrap();
    feed.one("changed", &ids).await;
    let update = "UPDATE users SET role = 'x'";
    client.batch_execute(update).await.unwrap();
    feed.users(&["1", "2"]).await;
    client.batch_execute("DELETE FROM sessions").await.unwrap();
    feed.one("ended", &ids).await;
}
