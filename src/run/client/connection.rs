//! A conversation with one instance, from the side of who asks.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::ClientError;
use crate::control::native::VERSION;
use crate::run::instance;
use crate::sys::descriptor;

/// How long an instance may take to answer: it may be stopped, or not what it seems.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most bytes of one line.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// An instance that answers.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<UnixStream>,
    path: PathBuf,
    /// Of a network, the container that all is about.
    container: Option<String>,
}

/// One line of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// An event.
    Event(Value),
    /// So many were lost, as they were not read in time.
    Lost(u64),
}

impl Connection {
    /// Connects to the socket at `path`.
    pub fn open(path: &Path) -> Result<Connection, ClientError> {
        let failed = |source| ClientError::Connect { path: path.to_path_buf(), source };
        let stream = instance::connect(path).map_err(failed)?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .map_err(failed)?;
        Ok(Connection { reader: BufReader::new(stream), path: path.to_path_buf(), container: None })
    }

    /// The same, to a network, about one of its containers from now on.
    #[must_use]
    pub fn about(mut self, container: &str) -> Connection {
        self.container = Some(container.to_owned());
        self
    }

    /// Asks, and hears the answer.
    pub fn ask(&mut self, name: &str, arguments: Value) -> Result<Value, ClientError> {
        self.ask_with(name, arguments, &[])
    }

    /// The same, with descriptors.
    pub fn ask_with(
        &mut self,
        name: &str,
        arguments: Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Value, ClientError> {
        let mut request = match arguments {
            Value::Object(arguments) => arguments,
            _ => Map::new(),
        };
        request.insert("version".to_owned(), VERSION.into());
        request.insert("request".to_owned(), name.into());
        if let Some(container) = &self.container {
            request.insert("container".to_owned(), container.as_str().into());
        }
        let line = format!("{}\n", Value::Object(request));
        descriptor::send_all(self.reader.get_ref().as_fd(), descriptors, line.as_bytes())
            .map_err(|error| self.failed(error))?;
        let mut answer = self.line()?;
        if let Some(error) = answer.get("error") {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            return Err(ClientError::Refused { code: text("code"), message: text("message") });
        }
        match answer.get_mut("answer") {
            Some(answer) => Ok(answer.take()),
            None => Err(ClientError::Broken(format!("no answer in {answer}"))),
        }
    }

    /// The next line of a stream, as long as it may take; nothing at its end.
    pub fn hear(&mut self) -> Result<Option<Told>, ClientError> {
        self.reader.get_ref().set_read_timeout(None).map_err(|error| self.failed(error))?;
        let mut told = match self.line() {
            Err(ClientError::Connect { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(None);
            }
            other => other?,
        };
        if let Some(lost) = told.get("lost").and_then(Value::as_u64) {
            return Ok(Some(Told::Lost(lost)));
        }
        match told.get_mut("event") {
            Some(event) => Ok(Some(Told::Event(event.take()))),
            None => Err(ClientError::Broken(format!("no event in {told}"))),
        }
    }

    fn line(&mut self) -> Result<Value, ClientError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.reader).take(MAX_LINE_BYTES);
        bounded.read_until(b'\n', &mut line).map_err(|error| self.failed(error))?;
        if line.last() != Some(&b'\n') {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|error| ClientError::Broken(error.to_string()))
    }

    fn failed(&self, source: io::Error) -> ClientError {
        ClientError::Connect { path: self.path.clone(), source }
    }
}
