"""Prompts for calibration, for evaluation, and for the answers that the report shows. Data.

Both lists mix chat, facts, code, lists, JSON, tables, summaries, arithmetic and stories in several
languages, and each is in an order in which neighbours differ, so that every stretch of it is a
mixture. No prompt is in two lists, and no task of one is that of another in other words.
"""

CALIBRATION = (
    "Explain in simple words how a refrigerator keeps food cold.",
    "Write a Python function that returns the n largest numbers of a list.",
    "Erzähle eine kurze Geschichte über einen Leuchtturmwärter und eine Möwe.",
    "List ten things to check before a long car trip.",
    'Give three planets as a JSON array of objects with the keys "name" and "moons".',
    "Quels sont les avantages du train par rapport à l'avion pour un voyage de 500 km ?",
    "A shop sells pens at 3 for 2 dollars. How much do 18 pens cost? Show each step.",
    "用简单的语言解释为什么天空是蓝色的。",
    "Write a polite email that asks a landlord to repair a dripping tap.",
    "¿Cómo se prepara una tortilla de patatas? Da los pasos numerados.",
    "Summarize in two sentences: Bees visit flowers to collect nectar and pollen. On the way they "
    "carry pollen from one flower to the next, and so the plants can form seeds and fruit. Where "
    "bees become rare, farmers harvest less.",
    "I feel nervous before my first day at a new job. What can I do?",
    "Write a SQL query that counts the orders of each customer in the year 2023.",
    "日本の四季について、それぞれ一文で説明してください。",
    "Translate into German: The meeting has been moved to Thursday at ten o'clock.",
    "What is the difference between weather and climate?",
    "Escreva um pequeno poema sobre a chuva na cidade.",
    "Write a bash script that renames all .jpeg files in a folder to .jpg.",
    "Who was Marie Curie, and what is she known for?",
    "भारत के तीन प्रमुख त्योहारों के बारे में संक्षेप में बताइए।",
    "Make a table in Markdown with four European countries, their capitals and their currencies.",
    "Scrivi un breve dialogo tra un cliente e un cameriere in un ristorante.",
    "Tell me a bedtime story about a dragon who is afraid of fire.",
    "A train leaves at 14:35 and arrives at 17:10. How long is the journey?",
    "اشرح باختصار كيف تتكون الغيوم.",
    "Find the error in this code and correct it:\n\n"
    "for (int i = 0; i <= values.length; i++) {\n    sum += values[i];\n}",
    "Welche Vor- und Nachteile hat es, auf dem Land zu leben?",
    "Write a short product description for a solar powered garden lamp.",
    'Extract name, date and amount as JSON: "On 5 May 2022 Anna Berg paid 120 euros."',
    "Объясни, зачем растениям нужен солнечный свет.",
    "Give me five ideas for a cheap birthday party for a ten year old.",
    "Explain what a hash table is and when it is useful.",
    "Écris une lettre courte pour remercier une amie de son accueil.",
    "Is it safe to eat food after its best-before date? Explain.",
    "请写一首关于秋天的短诗。",
    "Write a CSS rule that centers a box on the page, and explain each line.",
    "Name the stages of the water cycle in order and describe each.",
    "Explica la diferencia entre un virus y una bacteria.",
    "You are the control unit of a greenhouse. The temperature is 34 degrees and the humidity is "
    "40 percent. Say what you would do, and why.",
    "Classify each review as positive or negative: 1. The battery died after a week. 2. Great "
    "sound for the price. 3. I would buy it again.",
)
"""Their answers are what calibrated recipes fit the weights to."""

EVALUATION = (
    "How does a bicycle stay upright while it is moving?",
    "Write a Python function that checks whether a word is a palindrome.",
    "Nenne fünf Gründe, warum Schlaf wichtig ist.",
    'Describe a book as a JSON object with the keys "title", "author", "year" and "genres".',
    "Raconte une petite histoire qui se passe dans une gare la nuit.",
    "If 4 workers need 6 hours to paint a fence, how long do 3 workers need? Show each step.",
    "北京有哪些值得参观的地方？请列出三个并说明理由。",
    "Write a friendly message that invites neighbours to a barbecue on Saturday.",
    "¿Qué causa las mareas? Explícalo para un niño.",
    "Summarize in one sentence: The library will be closed for two weeks in August while the "
    "heating is replaced. Borrowed books can be returned in the box beside the entrance, and all "
    "loans are extended until the first of September.",
    "Write a JavaScript function that removes duplicates from an array.",
    "東京で一日を過ごすなら、どんな計画がよいですか。",
    "My laptop has become slow. What should I try first?",
    "Make a packing list for a weekend of hiking in the mountains.",
    "Quais são os ingredientes e os passos para fazer pão em casa?",
    "What were the main causes of the First World War?",
    "स्वस्थ रहने के लिए रोज़ क्या करना चाहिए?",
    "Translate into French: Could you tell me where the nearest pharmacy is?",
    "Write a short story that begins with the words: The last robot on the island woke up.",
    "ما هي فوائد القراءة اليومية؟",
    "Explain what this command does: grep -rn 'TODO' src | sort | head -20",
    "Come funziona una pila? Spiegalo in modo semplice.",
    "Compare cats and dogs as pets in a table with three rows.",
    "A sensor in a pump reports rising vibration over three days. What could be the reasons, and "
    "what should the operator check?",
)
"""Their answers are what all models are measured on."""

SHOWN = (
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    'Give a JSON object with the keys "city" and "country" for Madrid.',
    "What is 17 + 25?",
    "Name three colours of the rainbow.",
    "Was ist der Unterschied zwischen Tag und Nacht?",
)
"""Both models answer them, for people to compare; nothing is measured on them."""
