"""Word pools, numbers and sizes of the invented facts of `relations`: what needs no invented name.

A pool of words, or what draws a number, by the name of the kind.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable

from localhyper.evaluate.facts import Split

Draw = Callable[[random.Random, Split], str]


def _pool(text: str) -> list[str]:
    """The words of a text in which they stand between bars."""
    return [" ".join(word.split()) for word in text.split("|")]


TOWN_ENDS = "holm ford vik by stad ton ville berg field mouth haven dale".split()
COMPANY_ENDS = _pool("Works|Brothers|Limited|Foods|Textiles|Shipping|and Sons|Instruments|Paper|Glass")
STREET_ENDS = _pool("Street|Lane|Road|Avenue|Square|Hill|Row|Alley|Quay|Terrace")
APPLIANCES = _pool("""dishwasher|kettle|heat pump|radio|freezer|vacuum cleaner|drill|camera|toaster|humidifier|
air conditioner|hearing aid|chain saw|microscope|scanner|water pump|food mixer|hair dryer|metal detector|oven|
sewing machine|torch|thermostat|electric bicycle""")
SPECIES = _pool("""newt|owl|beetle|lizard|trout|heron|tree frog|viper|finch|turtle|crab|gull|moth|salamander|pike|
woodpecker|spider|sandpiper|gecko|kingfisher|toad|stork""")
CLUBS = _pool("""Rowing Club|Chess Club|Football Club|Film Club|Rifle Club|Cycling Club|Riding Club|Handball Club|
Debating Society|Gardening Society|Ski Club|Hiking Club|Judo Club|Sailing Club|Dance Club""")
TEAMS = "United|Rovers|Wanderers|Athletic|City|Lions|Eagles|Dynamo".split("|")
DISHES = _pool("""pie|stew|loaf|casserole|pudding|roast|gratin|hotpot|tart|strudel|dumpling bake|fish bake|cabbage bake|
flat bread|cheese bake|onion tart""")

WORDS: dict[str, list[str]] = {
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "colour": "red blue green yellow white black brown orange purple grey silver pink".split(),
    "room": _pool("""boiler room|wine cellar|server room|music room|reading room|attic|tool shed|map room|cloakroom|
sick room|common room|dark room|garage|pump room|projection room|laundry"""),
    "place": _pool("""library|town hall|bakery|museum|swimming pool|post office|mill|theatre|hospital|observatory|
market hall|railway station|guest house|school|brewery|art gallery|pharmacy|boat club|chapel|botanical garden"""),
    "items": _pool("""books|lamps|chairs|paintings|bottles|seats|boxes|coins|beds|tools|letters|photographs|bicycles|
clocks"""),
    "role": _pool("""mayor|head cook|librarian|caretaker|treasurer|night nurse|conductor|head teacher|chief engineer|
gardener|coach|secretary|landlord|editor|stage manager|supervisor"""),
    "job": _pool("""baker|surgeon|carpenter|translator|plumber|photographer|pilot|beekeeper|tailor|geologist|
piano tuner|locksmith|vet|diver|notary|glassblower"""),
    "vehicle": _pool("""ferry|fire engine|research ship|sailing boat|cargo train|rescue helicopter|airship|ice breaker|
hospital ship|mail van|snow plough|submarine"""),
    "animal": _pool("""grey cat|old dog|parrot|white horse|goat|school hamster|tortoise|donkey|goose|pony|guard dog|
raven"""),
    "object": _pool("""coffee machine|spare key|first aid kit|ladder|projector|green suitcase|lawn mower|printer|
fire bell|sewing machine|rowing boat|piano|tent|wheelbarrow|delivery van|generator"""),
    "ticket": _pool("""day ticket|season ticket|guided tour|haircut|bowl of soup|parking permit|swimming lesson|
library card|bus ticket|cup of tea"""),
    "event": _pool("""summer fair|chess tournament|spring concert|flower show|boat race|evening course|film festival|
staff meeting|book fair|marathon|training camp|harvest festival|annual meeting"""),
    "paper": _pool("""rental agreement|insurance policy|supply contract|work permit|peace treaty|employment contract|
warranty|loan agreement|building permit|fishing licence"""),
    "product": _pool("""blue cheese|woollen socks|garden chairs|plum cake|violins|olive oil|rye bread|candles|
fishing nets|honey|leather gloves|kites|smoked trout|pencils|toy trains|mustard|silk scarves|walnuts"""),
    "spot": _pool("""behind the stove|under the stairs|in the top drawer|beside the fuse box|on the upper shelf|
in the hall cupboard|next to the sink|below the window|in the cellar|behind the curtain|under the work bench"""),
    "reason": _pool("""heavy rain|a power cut|a strike|the flu|a lack of money|a broken pipe|thick fog|a bomb scare|
high winds|a missing permit|snow on the tracks"""),
    "activity": _pool("""repairing clocks|playing cards|collecting beetles|carving spoons|whistling|dancing|
telling jokes|baking pretzels|flying kites|reading aloud|painting doors|juggling|making candles|boxing|climbing trees|
writing poems|brewing beer|knitting|feeding ducks|building model ships|smoking|wrestling|watching birds|practising yoga|
pressing flowers"""),
    "agent": _pool("""warm vinegar|soapy water|lemon juice|a dry brush|baking soda|alcohol|fine sand|a damp cloth|
linseed oil|compressed air|distilled water|salt water|wood ash|a soft sponge|beeswax|chalk powder"""),
    "animal_food": _pool("""pine needles|snails|water plants|ants|ripe figs|small fish|mosses|earthworms|beetle larvae|
acorns|mushrooms|dragonflies|young shoots|mussels|blackberries|thistle seeds|birds' eggs|spiders|roots|shrimps|
caterpillars|mice"""),
    "belonging": _pool("""umbrella|passport|wallet|hat|camera|violin|notebook|glove|scarf|pocket knife|ring|watch|
sketchbook|telephone|raincoat|cap|toolbox|diary|flute|lunch box|compass|blanket|rucksack|hairbrush"""),
    "blood": _pool("""blood sugar level|cholesterol level|calcium level|sodium level|ferritin level|potassium level|
vitamin D level|protein level|magnesium level|zinc level"""),
    "body": _pool("""knee|stomach|heart|spine|lungs|liver|kidneys|hip|shoulder|throat|ears|nose|hand|skin|jaw|bladder|
foot|eyes|elbow|thyroid gland"""),
    "cause": _pool("""a quarrel about salt|a stolen crown|a nest of storks|a fallen tree|a dispute over fishing rights|
an unpaid toll|a cracked wall|the price of timber|a forged letter|a shortage of bricks|a missing signature|
a broken promise|a flood in spring|an old debt|a landslide|a border stone|the death of an heir|a dry well|
a plague of mice|a lost lawsuit"""),
    "committee": _pool("""building committee|parents' council|works council|town council|board of trustees|
parish council|tenants' union|traffic committee|school board|health committee|finance committee|youth council|
harvest committee|water board|planning group"""),
    "crop": _pool("""barley|hops|flax|sugar beet|cabbage|maize|tobacco|lavender|rye|buckwheat|mustard|asparagus|garlic|
hemp|oats|saffron|celery|rhubarb"""),
    "damage": _pool("""broken glass|damage by mice|theft from an open car|loss of cash|damage by floods|
dental treatment|damage by frost|war|wear and tear|damage to borrowed tools|lightning|damage by pets|
damage during a move|gross negligence|a lost passport|work on the roof|racing|mould"""),
    "drink": _pool("""grapefruit juice|milk|black tea|red wine|coffee|mineral water|beer|apple juice|cocoa|buttermilk|
tomato juice|green tea|cherry brandy|lemonade|peppermint tea|carrot juice"""),
    "duty": _pool("""sweep the market square|bake a cake for everybody|wash the dishes for a week|plant a tree|
read a poem aloud|polish the bell|stand on one leg|carry firewood|paint a bench|clean the windows|peel potatoes|
apologize in writing|shovel snow all winter|rake the leaves|buy a round of cider|scrub the stairs|ring the bell at noon|
weed the flower beds|sing on the balcony|wear a paper hat"""),
    "fault": _pool("""a blocked pump|a loose cable|an empty tank|a worn belt|a burnt fuse|an open door|a dirty sensor|
a short circuit|a jammed wheel|a cracked seal|a wet plug|an overheated motor|a leaking valve|a bent needle|low pressure|
a missing screw|a broken switch|a clogged filter"""),
    "fear": _pool("""spiders|thunderstorms|dentists|clowns|deep lakes|big dogs|lifts|owls|moths|narrow bridges|masks|
snakes|geese|high ladders|dark cellars|wasps|loud trumpets|ghosts"""),
    "field": _pool("""complaints|returns|spare parts|exports|leases|customs papers|repairs|job applications|invoices|
press matters|data protection|large orders|training|pensions|deliveries|advertising"""),
    "floor": _pool("""the ground floor|the first floor|the second floor|the third floor|the fourth floor|
the fifth floor|the sixth floor|the seventh floor|the eighth floor|the ninth floor|the eleventh floor|the top floor|
the lower ground floor|the mezzanine"""),
    "furniture": _pool("""folding bed|bookcase|writing desk|rocking chair|wardrobe|shoe rack|kitchen table|footstool|
chest of drawers|bunk bed|coat stand|garden bench|mirror frame|tea trolley|bar stool|corner shelf"""),
    "garment": _pool("""striped scarf|woollen hat|leather jacket|raincoat|straw hat|linen shirt|velvet cape|
knitted cardigan|checked skirt|flannel shirt|denim jacket|silk blouse|fur cap|tweed jacket|sheepskin coat|polka dot tie|
hooded cloak|quilted vest"""),
    "gear": _pool("""a rope and a helmet|warm gloves|sun glasses|an ice axe|two sticks|a whistle|a head lamp|crampons|
a sleeping bag|a first aid kit|nylon gaiters|dried fruit|a map and a compass|spare socks|a windproof jacket|
a gas stove"""),
    "gift": _pool("""a pair of binoculars|a cuckoo clock|six wine glasses|a hammock|a coffee grinder|a bread knife|
a cherry tree|two deck chairs|a picnic basket|a globe|a copper pan|a garden swing|a set of towels|a bird bath|
a feather quilt|a chess board|a fondue pot|an old map|a waffle iron|a bottle of plum brandy"""),
    "habit": _pool("""a walk before dinner|cold water in the morning|an hour of silence|a warm foot bath|a nap at noon|
less sugar|an open window|gardening|a harder mattress|a diary at bedtime|less screen light|regular swimming|herbal tea|
a dog in the house|work in the open air|deep breathing|a lighter supper|early sunlight"""),
    "habitat": _pool("""in hollow trees|on rocky shores|in peat bogs|under fallen leaves|along slow streams|
in dry caves|on salt marshes|in old quarries|above the tree line|in reed beds|among sand dunes|in cellars|
on sunny slopes|in flooded meadows|beneath the bark of pines|in mountain lakes|in abandoned burrows|in thorn hedges"""),
    "ingredient": _pool("""sugar|ginger|nutmeg|cinnamon|butter|cream|flour|paprika|thyme|honey|cardamom|sesame|yeast|
mustard|saffron|ground almonds|cumin|lemon zest|cocoa|fennel|parsley|curry powder|vanilla"""),
    "instrument": _pool("""cello|accordion|trombone|harp|oboe|banjo|bagpipes|tuba|mandolin|piano|zither|clarinet|flute|
double bass|hurdy-gurdy|organ|trumpet|viola|recorder|ukulele"""),
    "material": _pool("""oak|copper|bronze|granite|glass|cork|ash wood|marble|tin|plywood|slate|sandstone|aluminium|
bamboo|brass|steel|clay|beech|limestone|cast iron|hard rubber|porcelain|walnut|recycled plastic"""),
    "part": _pool("""pump|belt|lid|filter|handle|motor|hose|door seal|blade|switch|wheel|fuse|spring|valve|lamp|
battery cover|nozzle|fan"""),
    "payment": _pool("""in cash|by bank transfer|by cheque|by credit card|in advance|in three instalments|on delivery|
at the end of the quarter|by direct debit|with vouchers|by telephone|in foreign coins|within the app|
by postal order"""),
    "pet": _pool("""goldfish|small birds|two cats|guinea pigs|tortoises|hamsters|canaries|rabbits|small dogs|
stick insects|guide dogs|turtles|dwarf rabbits|parakeets|mice|old cats|ferrets|snails"""),
    "shape": _pool("""a half moon|an egg|a bent nail|a triangle|a horseshoe|a star|a trumpet|a fish|a boot|a fan|a leaf|
a snail shell|a hexagon|a pear|a cross|a figure of eight|a kite|a drop of water|a key|a bell"""),
    "side_dish": _pool("""boiled potatoes|green beans|pickled onions|stewed plums|white beans|baked apples|
buttered peas|red lentils|roast chestnuts|fried mushrooms|dumplings|wild berries|sliced cucumbers|noodles|
glazed carrots|crusty rolls|grilled tomatoes|salted radishes"""),
    "state": _pool("""the water tank is empty|the battery is low|the door is open|the filter is full|
the motor is too hot|the lid is not closed|the signal is lost|the programme has ended|the bag must be changed|
the child lock is on|the timer is running|the memory is full|the device is updating|it is ready for use|
oil must be added|the fan has stopped|the blade is blunt|the pressure is too high"""),
    "subject": _pool("""chemistry|geography|history|physics|Latin|biology|woodwork|drawing|music|French|algebra|
astronomy|gymnastics|Spanish|cooking|Greek|economics|needlework"""),
    "symptom": _pool("""dizziness|nausea|tiredness|hoarseness|a dry cough|muscle cramp|back pain|toothache|
sleeplessness|a runny nose|itching|loss of appetite|swollen gums|a stiff neck|heartburn|blurred vision|night sweat|
joint pain|a dry mouth|low blood pressure|ringing in the ears|hay fever"""),
    "task": _pool("""water the tomatoes|feed the hens|paint the fence|empty the letter box|repair the gate|
write to the newspaper|order new chairs|count the votes|clean the gutters|air the rooms|look after the bees|
collect the signatures|find a new printer|mow the lawn|draw up a plan|call the electrician|hang up the posters|
bring a projector|compare prices|book the hall|walk the dog|update the list of members"""),
    "theme": _pool("""a stolen violin|two rival bakers|a lost glacier|a blind boxer|an island without children|
a forged painting|three sisters and a mill|a runaway bus|the last winter of a farm|a talking well|a clockmaker in love|
a village without water|an escaped bear|a cook who cannot taste|a wedding in the snow|a night in a museum|
a teacher on strike|a wrongly sent letter"""),
    "treasure": _pool("""golden cup|church organ|silver bell|painted altar|bronze horse|crown|marble fountain|
royal carriage|ivory chess set|astronomical clock|town flag|stained window|jewelled sword|carved pulpit|oldest globe|
pearl necklace|tapestry|stone lion"""),
    "usage": _pool("""roof tiles|lamps|batteries|brake pads|tooth fillings|fireworks|lenses|paints|magnets|bullets|
mirrors|church windows|drill heads|fertilizers|watch springs|tennis rackets|solar cells|boat hulls"""),
    "work": _pool("""repair of the roof|new windows|painting of the hall|cleaning of the well|new kitchen|
tuning of the organ|moving of the safe|garden wall|wedding cake|translation of the will|new boiler|
restoration of the fresco|felling of the oak|paving of the yard|new fence|photographs|renovation of the bath|
bicycle shed|new heating|drainage of the meadow"""),
}  # fmt: skip
WHERE = "under behind beside on near below".split()
THINGS = _pool("""the blue sofa|the piano|the stone bridge|the ticket counter|the old pump|the bookshelf|the wood pile|
the kitchen table|the bus shelter|the fountain|the garden bench|the rain barrel|the back seat|the chestnut tree|
the fireplace|the staircase|the fish tank|the notice board|the red carpet|the bicycle rack|the counter|the sewing box|
the church steps|the radiator""")
MONTHS = "January February March April May June July August September October November December".split()
SMALL = "two three four five six seven eight nine ten twelve fourteen".split()


def _number(rng: random.Random, split: Split) -> str:
    digits = rng.choice((3, 4, 4, 4, 5))
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def _count(rng: random.Random, split: Split) -> str:
    number = int(10 ** rng.uniform(1, 4.5))
    return f"{number:,}" if number > 9999 or rng.random() < 0.2 else str(number)


def _price(rng: random.Random, split: Split) -> str:
    unit = rng.choice((" euros", " dollars", " crowns", " francs"))
    return f"{rng.randrange(2, 990)}{unit}" if rng.random() < 0.6 else f"${rng.randrange(2, 90)}.{rng.randrange(10)}0"


def _time(rng: random.Random, split: Split) -> str:
    minute = rng.choice((0, 15, 20, 30, 40, 45, 50))
    return f"{rng.randrange(1, 24)}:{minute:02d}" if rng.random() < 0.6 else f"{rng.randrange(1, 12)} o'clock"


def _date(rng: random.Random, split: Split) -> str:
    day, month = rng.randrange(1, 29), rng.choice(MONTHS)
    return f"{day} {month}" if rng.random() < 0.5 else f"{month} {day}"


def _model(rng: random.Random, split: Split) -> str:
    letters = "".join(rng.choices(string.ascii_uppercase, k=2))
    return f"{letters}-{rng.randrange(10, 1000)}"


def one_of(words: list[str]) -> Draw:
    """Draws one of the words."""
    return lambda rng, split: rng.choice(words)


def _amount(low: int, high: int, *forms: str, step: int = 1) -> Draw:
    """A number from a range in one of the forms."""
    return lambda rng, split: rng.choice(forms).format(rng.randrange(low, high + 1, step))


def _decimal(low: float, high: float, *forms: str) -> Draw:
    """A number with one decimal in one of the forms."""
    return lambda rng, split: rng.choice(forms).format(round(rng.uniform(low, high), 1))


def _either(*draws: Draw) -> Draw:
    return lambda rng, split: rng.choice(draws)(rng, split)


def _pattern(*patterns: str) -> Draw:
    """One of the patterns with `#` as a digit and `@` as a letter."""
    marks = {"#": string.digits[1:], "@": "ABCDEFGHKLMNPRSTUVWXYZ"}
    return lambda rng, split: "".join(rng.choice(marks.get(mark, mark)) for mark in rng.choice(patterns))


def _hours(rng: random.Random, split: Split) -> str:
    first, last = sorted(rng.sample(range(6, 23), 2))
    half = rng.choice(("00", "30"))
    return rng.choice((f"from {first}:{half} to {last}:00", f"between {first}:{half} and {last}:00"))


def _years(rng: random.Random, split: Split) -> str:
    first = rng.randrange(1650, 2010)
    return f"from {first} to {first + rng.randrange(1, 40)}"


def _score(rng: random.Random, split: Split) -> str:
    lost = rng.randrange(0, 5)
    return f"{lost + rng.randrange(1, 6)} to {lost}"


NUMBERS: dict[str, Draw] = {
    "number": _number,
    "count": _count,
    "year": lambda rng, split: str(rng.randrange(1650, 2026)),
    "age": lambda rng, split: str(rng.randrange(6, 100)),
    "price": _price,
    "time": _time,
    "date": _date,
    "duration": lambda rng, split: f"{rng.choice(SMALL)} {rng.choice(('days', 'weeks', 'months', 'hours', 'years'))}",
    "measure": _amount(2, 399, "{} metres", "{} miles", "{} feet", "{} kilometres"),
    "model": _model,
    "few": _amount(3, 60, "{}"),
    "small": _either(one_of(SMALL), _amount(2, 16, "{}")),
    "percent": _either(_amount(2, 95, "{} percent", "{} %"), _decimal(0.5, 60, "{} percent", "{} %")),
    "money": _either(
        _decimal(1.1, 90, "{} million euros", "{} million dollars", "{} million crowns"),
        _amount(1000, 900000, "{:,} euros", "{:,} francs", "${:,}", step=500),
    ),
    "phone": _pattern("0### ## ## ##", "+## ## ### ###", "555-####", "(0##) ### ####", "##-##-##", "0## #######"),
    "ident": _pattern("@@-####", "@###/##", "####-@", "@@ ### ###", "##@##", "@@@#-##", "#@-###"),
    "error": _pattern("@##", "@-##", "###", "@@#"),
    "version": _pattern("#.#", "##.#", "#.#.#", "#.##", "##.0.#"),
    "seat": _pattern("#@", "##@", "1##"),
    "platform": _amount(1, 24, "platform {}", "track {}"),
    "shortcut": _pattern("Ctrl+@", "Alt+@", "Ctrl+Shift+@", "Ctrl+Alt+@", "F#"),
    "hours": _hours,
    "years": _years,
    "score": _score,
    "votes": lambda rng, split: f"{rng.randrange(8, 40)} votes to {rng.randrange(2, 8)}",
    "appointment": lambda rng, split: f"{rng.choice(WORDS['day'])} at {_time(rng, split)}",
    "full_date": lambda rng, split: f"{rng.randrange(1, 29)} {rng.choice(MONTHS)} {rng.randrange(1850, 2020)}",
    "race_time": _either(_pattern("2:1#:3#", "1:14:0#", "1:#4", "3:0#:2#"), _decimal(9.5, 59, "{} seconds")),
    "wait": lambda rng, split: f"{rng.choice((*SMALL, '16', '18', '30'))} {rng.choice(('days', 'weeks', 'months'))}",
    "minutes": _either(_amount(12, 180, "{} minutes"), _amount(5, 55, "1 hour and {} minutes", step=5)),
    "seconds": _amount(3, 60, "{} seconds"),
    "interval": _either(
        _amount(2, 30, "every {} hours", "every {} days", "every {} weeks", "every {} minutes"),
        one_of(["twice a day", "three times a day", "once a week", "once a month", "twice a year", "every other day"]),
    ),
    "years_of_life": _amount(2, 120, "{} years"),
    "weight": _either(
        _amount(20, 980, "{} grams", "{} kilograms", step=10),
        _decimal(1.1, 60, "{} kilograms", "{} pounds", "{} tonnes"),
    ),
    "amount": _either(
        _amount(20, 750, "{} grams", step=10), _amount(2, 9, "{} spoons", "{} cups"), _amount(3, 20, "{} ounces")
    ),
    "volume": _either(_amount(100, 950, "{} millilitres", step=50), _decimal(1.1, 40, "{} litres", "{} gallons")),
    "dose": _either(_amount(5, 800, "{} milligrams", step=5), _amount(2, 40, "{} drops", "{} millilitres")),
    "lab_value": _either(_decimal(1.1, 19, "{} mmol/l", "{} g/l"), _amount(20, 300, "{} mg/dl")),
    "power": _either(_amount(15, 2400, "{} watts", step=5), _decimal(1.1, 12, "{} kilowatts")),
    "noise": _amount(24, 98, "{} decibels"),
    "cold": _either(_amount(1, 40, "minus {} degrees", "-{} °C"), _amount(2, 12, "{} °C", "{} degrees")),
    "warmth": _amount(8, 95, "{} °C", "{} degrees"),
    "oven": _amount(120, 275, "{} °C", "{} degrees", step=5),
    "heat": _amount(90, 3400, "{} °C", "{} degrees"),
    "area": _amount(18, 240, "{} square metres", "{} square feet"),
    "land": _either(_amount(3, 900, "{} hectares", "{} acres"), _decimal(1.1, 99, "{} square kilometres")),
    "size": lambda rng, split: f"{rng.randrange(20, 240, 5)} by {rng.randrange(20, 240, 5)} centimetres",
    "short_length": _either(_decimal(1.1, 9, "{} metres", "{} yards"), _amount(40, 320, "{} centimetres", step=5)),
    "altitude": _amount(412, 6900, "{:,} metres", "{} metres", "{:,} feet"),
    "depth": _amount(6, 480, "{} metres", "{} feet"),
    "battery": lambda rng, split: f"{rng.choice(SMALL)} {rng.choice(('AA', 'AAA', 'C', 'D', 'button'))} cells",
    "whereabouts": lambda rng, split: f"{rng.choice(WHERE)} {rng.choice(THINGS)}",
}
