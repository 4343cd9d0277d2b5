use std::panic;
use std::time::Duration;
use std::{fmt, thread};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use crate::name::new_name;
use crate::{Error, Server, Source, url};

/// A database of its own for one test.
///
/// On a private server it is a copy of a template that the setup ran in once, and goes when the
/// server goes. On a server from a variable, the setup runs in each, so that no template stays
/// behind, and the database is dropped with this value.
pub struct TestDatabase {
    name: String,
    config: Config,
    url: String,
    /// How to reach the server in order to drop the database, where that is needed.
    drop_through: Option<Config>,
}

impl TestDatabase {
    /// A database on [`Server::for_tests`] in which `setup_sql`, any number of statements, has run.
    ///
    /// # Panics
    ///
    /// If there is no server, or if the setup fails.
    pub async fn create(setup_sql: &str) -> Self {
        let server = match tokio::task::spawn_blocking(Server::for_tests).await {
            Ok(server) => server,
            Err(error) => panic::resume_unwind(error.into_panic()),
        };
        let database = Self::create_on(server, setup_sql).await;
        database.unwrap_or_else(|error| panic!("{error:?}\n(on {})", server.source()))
    }

    /// The same on any server.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, the role may not create databases, or the setup fails.
    pub async fn create_on(server: &Server, setup_sql: &str) -> Result<Self, Error> {
        let admin = connect(&server.config()).await?;
        let mut database = Self::named(new_name("test_"), server);
        if *server.source() == Source::Url {
            // Before it exists, in case the caller gives up half-way.
            database.drop_through = Some(server.config());
            create(&admin, &database.name, "template1").await?;
            set_up(&database.config, setup_sql).await?;
        } else {
            let template = template(server, &admin, setup_sql).await?;
            create(&admin, &database.name, &template).await?;
        }
        Ok(database)
    }

    fn named(name: String, server: &Server) -> Self {
        let mut config = server.config();
        config.dbname(&name);
        let url = url::with_database(server.url(), &name);
        Self {
            name,
            config,
            url,
            drop_through: None,
        }
    }

    /// How to connect to this database.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// A new connection, driven by a task of the current runtime.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    pub async fn client(&self) -> Client {
        connect(&self.config)
            .await
            .unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Its name, which needs no quotes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection string, for `psql` and other programs.
    pub fn url(&self) -> String {
        self.url.clone()
    }
}

/// Without the connection string, which may hold a password.
impl fmt::Debug for TestDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestDatabase")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(config) = self.drop_through.take() else {
            return;
        };
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A thread and a runtime of its own: the test's may be shutting down. Best effort, since
        // there is nobody to tell.
        let dropping = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                if let Ok(admin) = connect(&config).await {
                    let _ = admin.batch_execute(&statement).await;
                }
            });
        });
        let _ = dropping.join();
    }
}

/// The name of the template in which the setup has run.
async fn template(server: &Server, admin: &Client, setup_sql: &str) -> Result<String, Error> {
    // Held while one is made, so that the others wait for it instead of making their own.
    let mut templates = server.templates.lock().await;
    if let Some(name) = templates.get(setup_sql) {
        return Ok(name.clone());
    }
    let name = new_name("template_");
    create(admin, &name, "template1").await?;
    let mut config = server.config();
    set_up(config.dbname(&name), setup_sql).await?;
    templates.insert(setup_sql.to_owned(), name.clone());
    Ok(name)
}

async fn set_up(config: &Config, setup_sql: &str) -> Result<(), Error> {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .map_err(Error::sql("connect to PostgreSQL"))?;
    let connection = tokio::spawn(connection);
    client
        .batch_execute(setup_sql)
        .await
        .map_err(Error::sql("run the setup of the test database"))?;
    drop(client);
    let _ = connection.await; // a template must have no connections
    Ok(())
}

async fn create(admin: &Client, name: &str, template: &str) -> Result<(), Error> {
    let statement = format!("CREATE DATABASE {name} TEMPLATE {template}");
    let mut tries = 0;
    loop {
        match admin.batch_execute(&statement).await {
            // The connection that set the template up was closed, but its process may need a moment
            // to end.
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && tries < 100 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result.map_err(Error::sql("create a database")),
        }
    }
}

async fn connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .map_err(Error::sql("connect to PostgreSQL"))?;
    tokio::spawn(connection);
    Ok(client)
}
