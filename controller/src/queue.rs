//! Which Services are to be looked at, and when. A Service whose writes are under way waits until they have ended.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use crate::facts::ServiceKey;

/// Services by the time at which they are due.
#[derive(Debug, Default)]
pub struct Queue {
    due: HashMap<ServiceKey, Timestamp>,
    order: BTreeSet<(Timestamp, ServiceKey)>,
    /// The Services whose writes are under way, and when they are due afterwards.
    busy: HashMap<ServiceKey, Option<Timestamp>>,
}

impl Queue {
    /// Have the Service looked at at that time, or earlier if that has been asked for.
    pub fn add(&mut self, service: ServiceKey, at: Timestamp) {
        if let Some(afterwards) = self.busy.get_mut(&service) {
            *afterwards = Some(afterwards.map_or(at, |asked| asked.min(at)));
            return;
        }
        match self.due.get(&service) {
            Some(asked) if *asked <= at => return,
            Some(asked) => {
                self.order.remove(&(*asked, service.clone()));
            }
            None => {}
        }
        self.due.insert(service.clone(), at);
        self.order.insert((at, service));
    }

    /// The Service that has been due for longest.
    pub fn pop(&mut self, now: Timestamp) -> Option<ServiceKey> {
        if self.next()? > now {
            return None;
        }
        let (_, service) = self.order.pop_first()?;
        self.due.remove(&service);
        Some(service)
    }

    /// When the next Service is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }

    /// The Service's writes begin.
    pub fn begin(&mut self, service: ServiceKey) {
        let afterwards = self.due.remove(&service);
        if let Some(at) = afterwards {
            self.order.remove(&(at, service.clone()));
        }
        self.busy.insert(service, afterwards);
    }

    /// The Service's writes have ended.
    pub fn end(&mut self, service: &ServiceKey) {
        if let Some(Some(at)) = self.busy.remove(service) {
            self.add(service.clone(), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("default", name)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn drain(queue: &mut Queue, now: i64) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(at(now)))
            .map(|key| key.name)
            .collect()
    }

    #[test]
    fn services_come_when_they_are_due_and_in_that_order() {
        let mut queue = Queue::default();
        for (name, due) in [("late", 9), ("second", 2), ("first", 1)] {
            queue.add(key(name), at(due));
        }
        assert_eq!(drain(&mut queue, 5), ["first", "second"]);
        assert_eq!(queue.next(), Some(at(9)));
    }

    #[test]
    fn the_earlier_of_two_times_counts() {
        let mut queue = Queue::default();
        queue.add(key("a"), at(5));
        queue.add(key("a"), at(3));
        queue.add(key("a"), at(8));
        assert_eq!(drain(&mut queue, 3), ["a"]);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_service_whose_writes_are_under_way_waits_for_their_end() {
        let mut queue = Queue::default();
        queue.begin(key("a"));
        queue.add(key("a"), at(4));
        queue.add(key("a"), at(1));
        assert_eq!(queue.next(), None);
        queue.end(&key("a"));
        assert_eq!(drain(&mut queue, 1), ["a"]);
        queue.begin(key("a"));
        queue.end(&key("a"));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_time_asked_for_before_the_writes_began_is_kept() {
        let mut queue = Queue::default();
        queue.add(key("a"), at(7));
        queue.begin(key("a"));
        assert_eq!(drain(&mut queue, 9), Vec::<String>::new());
        queue.end(&key("a"));
        assert_eq!(drain(&mut queue, 9), ["a"]);
    }
}
