//! `tcp`: a connection is accepted.

use crate::course::Course;
use crate::socket::Connection;
use crate::{Outcome, Target};

/// Connects, and ends the connection in order.
pub(crate) async fn run(target: &Target, course: &Course) -> Outcome {
    match course.within(Connection::open_to_speak(target, course)).await {
        Ok(Ok(connection)) => {
            connection.close();
            Outcome::passed("connected")
        }
        Ok(Err(words)) | Err(words) => Outcome::failed(words),
    }
}
