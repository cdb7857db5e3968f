//! Places of an exclusive pool: each holds at most one call at a time.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A pool of one isolation key.
#[derive(Debug)]
pub(crate) struct Pool {
    /// As many turns as places: whoever has a turn finds a free place.
    turns: Arc<Semaphore>,
    places: Mutex<Vec<Arc<Semaphore>>>,
}

/// One place, taken until this is dropped, wherever that happens.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) number: u32,
    /// Lives as long as the place is taken.
    taken: Arc<()>,
    // The place is free before the turn is.
    _place: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
    _pool: Arc<Pool>,
}

/// Where the holder of a place sits: it is asked there whether somebody has the place.
#[derive(Debug, Default)]
pub(crate) struct Seat(Mutex<Weak<()>>);

impl Seat {
    pub(crate) fn take(&self, place: &Place) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&place.taken);
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    }
}

impl Pool {
    pub(crate) fn new(places: u32) -> Arc<Self> {
        let count = places.max(1) as usize;
        let places = (0..count).map(|_| Arc::new(Semaphore::new(1))).collect();
        Arc::new(Self { turns: Arc::new(Semaphore::new(count)), places: Mutex::new(places) })
    }

    /// Takes the first free place, so that the warm ones are taken first; waits for one where all are taken.
    pub(crate) async fn take(self: &Arc<Self>) -> Option<Place> {
        let turn = self.turns.clone().acquire_owned().await.ok()?;
        // One at a time, or two could look past each other's place.
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let (place, number) = places
            .iter()
            .zip(1..)
            .find_map(|(place, number)| Some((place.clone().try_acquire_owned().ok()?, number)))?;
        drop(places);
        Some(Place { number, taken: Arc::default(), _place: place, _turn: turn, _pool: self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::{Pool, Seat};

    #[tokio::test]
    async fn a_seat_is_taken_for_as_long_as_the_place_is() {
        let (pool, seat) = (Pool::new(1), Seat::default());
        assert!(!seat.is_taken());
        let place = pool.take().await.unwrap();
        seat.take(&place);
        assert!(seat.is_taken());
        drop(place);
        assert!(!seat.is_taken());
    }

    #[tokio::test]
    async fn places_come_back_however_they_are_given_back() {
        let pool = Pool::new(2);
        for _ in 0..10 {
            let (one, two) = (pool.take().await.unwrap(), pool.take().await.unwrap());
            assert_eq!((one.number, two.number), (1, 2));
            drop(one);
            assert_eq!(pool.take().await.unwrap().number, 1);
            drop(two);
        }
    }
}
