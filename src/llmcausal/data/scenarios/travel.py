"""Travel, weather and traffic."""

from __future__ import annotations

from llmcausal.data.scenarios.scenario import Scenario

SCENARIOS = (
    Scenario(
        id="travel_gate",
        category="travel",
        split="train",
        system="You help travelers at the airport. Answer briefly.",
        documents=(
            "Flight {code} to {city} leaves at {time} from gate {gate}. Boarding starts 40 minutes "
            "earlier.",
            "{city}, flight {code}: please go to gate {gate}. Departure {time}. Boarding starts "
            "40 minutes before.",
        ),
        question="From which gate does the flight leave?",
        answer="{gate}",
        response="The flight leaves from gate {gate}.",
        slots={"gate": ("A7", "B12", "C3", "D21", "F9")},
    ),
    Scenario(
        id="travel_train_destination",
        category="travel",
        split="train",
        system="You give train information in one short sentence.",
        documents=(
            "The train on platform 4 goes to {city}. It leaves at {time} and has a dining car. "
            "Next stop: {city_2}.",
            "Platform 4, {time}: train to {city}. It stops first in {city_2}. There is a dining "
            "car.",
        ),
        question="Where does the train go?",
        answer="{city}",
        response="The train goes to {city}.",
    ),
    Scenario(
        id="weather_wind",
        category="weather",
        split="train",
        system="You answer questions about weather reports. A few words are enough.",
        documents=(
            "Weather for {city}, {date}: cloudy with some rain. The high is {number} degrees. "
            "Light wind from the west.",
            "On {date} {city} gets clouds and some rain. It will be {number} degrees at most, with "
            "a light west wind.",
        ),
        question="How warm will it get?",
        answer="{number} degrees",
        response="It will get {number} degrees warm.",
    ),
    Scenario(
        id="travel_hotel_checkin",
        category="travel",
        split="train",
        system="You are a travel assistant. Give the requested fact.",
        documents=(
            "Booking {code}\nGuest: {person}\nHotel: {hotel}, {city}\nCheck-in: {date}\n"
            "Breakfast included",
            "Dear {person}, we booked {hotel} in {city} for you, starting {date}. Breakfast is "
            "included. Booking {code}.",
        ),
        question="Which hotel is booked?",
        answer="{hotel}",
        response="The hotel is {hotel}.",
        slots={"hotel": ("Hotel Marina", "Hotel Astoria", "Hotel Linden", "Hotel Panorama")},
    ),
    Scenario(
        id="travel_bus_line",
        category="travel",
        split="validation",
        system="You help tourists find their way. Answer in a few words.",
        documents=(
            "To reach the {place} in {city}, take bus {number} from the main station. The ride "
            "takes a quarter of an hour.",
            "Bus {number} brings you from the main station of {city} to the {place} in a quarter "
            "of an hour.",
        ),
        question="Which bus goes to the {place}?",
        answer="{number}",
        response="Bus {number} goes to the {place}.",
        slots={"place": ("zoo", "harbor", "castle", "market")},
    ),
    Scenario(
        id="travel_rental_car",
        category="travel",
        split="test",
        system="You answer questions about bookings. Keep it short.",
        documents=(
            "Car rental {company}\nDriver: {person}\nCar: {car}\nPick-up: {city}, {date}\n"
            "Return: same place",
            "{person} picks up a {car} from {company} in {city} on {date} and returns it there.",
        ),
        question="What kind of car is rented?",
        answer="{car}",
        response="The rented car is a {car}.",
        slots={"car": ("minivan", "red Mazda", "pickup truck", "small Toyota", "blue Skoda")},
    ),
)
